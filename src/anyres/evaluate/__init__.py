"""How near made images are to real ones.

    options.py   the options of `anyres evaluate`
    pictures.py  a folder of images, brought to one size by a stated protocol
    features.py  networks that turn images into features, behind one protocol
    metrics.py   distances between sets of features
    report.py    `evaluate`: the whole of it, and its figures

Import from the modules; this file imports nothing.
"""
