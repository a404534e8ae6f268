"""Images → latents.

    options.py   the options of `anyres prepare`
    sources.py   from what is told to a source of images: a folder, a table, tars, a data set of Hugging Face
    found.py     what a source gives: names, labels, bytes
    listing.py, tars.py, hub_data.py  the sources that are not folders
    images.py    finding images in folders, decoding them to upright RGB, resizing and cropping
    variants.py  from an image to the pictures that are encoded of it, in threads
    again.py     those pictures once more, for a teacher that sees them while training
    encoder.py   encoding them, into the parts of a dataset
    teaching.py  the teacher whose features are stored with them, and what they will take on disk
    encode.py    `prepare`: the whole of it, and its report
    released.py  `import-released`: the published latents → a dataset
    released_files.py  their files

Import from the modules; this file imports nothing.
"""
