"""Images → latents.

    options.py  the options of `anyres prepare`
    images.py   finding images, decoding them to upright RGB, resizing and cropping
    encode.py   encoding them, restartably, into a dataset

Import from the modules; this file imports nothing.
"""
