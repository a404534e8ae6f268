"""The network: NiT, a diffusion transformer over packed sequences (arXiv 2506.03131). Imports with torch alone.

    config.py     the architecture and its presets
    rope.py       axial rotary embedding and its extrapolation to unseen sizes
    attention.py  attention within each image of a pack, by four backends behind one function
    layers.py     the parts: conditioner, adaptive layer norm, block, projector
    nit.py        the whole
    weights.py    reading and writing weights
    released.py   checkpoints of the released code

Import from the modules; this file imports nothing.
"""
