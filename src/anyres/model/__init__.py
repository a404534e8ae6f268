"""The network: NiT, a diffusion transformer over packed sequences (arXiv 2506.03131). Imports with torch alone.

    config.py     the architecture and its presets
    rope.py       axial rotary embedding and its extrapolation to unseen sizes
    attention.py  attention within each image of a pack, by five backends behind one function
    elementwise.py  what lies between the matrix products; fused.py: the same by Triton's kernels
    rows.py, float8.py  products of 8-bit numbers, the blocks' weights in them; fused_float8.py: the blocks with those
    layers.py     the parts: conditioner, adaptive layer norm, block, projector
    nit.py        the whole
    weights.py    reading and writing weights
    released.py   checkpoints of the released code
    lora.py       changes of low rank to a trained network
    kernels/      Triton kernels of attention and of what lies between the products

Import from the modules; this file imports nothing.
"""
