"""Triton kernels of what lies between the matrix products; `anyres.model.elementwise` says what each computes.

    pieces.py              how a pack is cut, so that sums over an image's tokens need no atomics
    norms.py               gate, residual and modulated norm in one pass, forward and backward
    rotation.py            norm over the head dimension and rotation of queries and keys
    attention.py           attention by tiles of one image, forward and backward
    forward_attention.py   rotation and attention for passes without gradients
    gelu.py                bias and GELU
    cublas.py              products with a GELU in them; the library's kernels, not Triton's
    float8.py              what writes matrices in 8 bits
    sums.py                sums over tokens

Triton's are imported only where it is there and they are chosen. Everything is computed in float32, whatever the
dtype of the tensors in memory. Every sum has a fixed order: equal inputs give equal bits.
"""
