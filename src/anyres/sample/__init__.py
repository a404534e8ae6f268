"""Labels and sizes → images.

    request.py   what is asked for: labels, sizes, seeds, and how to sample
    field.py     the velocity of a pack, with guidance, as a solver sees it
    recording.py a network's pass recorded as a CUDA graph, for packs of one shape
    pipeline.py  network, autoencoder and labels together: `Pipeline`
    decoding.py  latents → images
    folder.py    a pipeline's folder, read and written
    writer.py    PNG files with their recipe in them, and contact sheets
    options.py   the options of `anyres sample`
    command.py   `anyres sample`

Import from the modules; this file imports nothing.
"""
