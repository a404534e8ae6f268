"""What lies between images and training.

    autoencoder.py  one protocol for autoencoders, and those of diffusers behind it
    running.py      how their networks run on a device: precision, memory format, compilation
    tiles.py        images too large for the memory, in tiles
    patch_pca.py    a linear autoencoder, fitted in seconds
    loading.py      from a name or folder to an autoencoder
    format.py       a dataset of latents on disk: what is in it, and reading it
    features.py     a teacher's features beside them
    shards.py       the files that hold the latents
    fixed_packs.py  packs that a dataset brings with it
    writer.py       writing one, so that nothing is lost or doubled when killed
    journal.py      what the writer remembers of each part that is done

Import from the modules; this file imports nothing.
"""
