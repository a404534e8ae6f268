"""Images → latents.

    options.py   the options of `anyres prepare`
    images.py    finding images, decoding them to upright RGB, resizing and cropping
    variants.py  from an image file to the pictures that are encoded of it, in threads
    encoder.py   encoding them, into the parts of a dataset
    teaching.py  the teacher whose features are stored with them, and what they will take on disk
    encode.py    `prepare`: the whole of it, and its report

Import from the modules; this file imports nothing.
"""
