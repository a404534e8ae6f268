"""Triton kernels of what lies between the matrix products; `anyres.model.elementwise` says what each computes.

    pieces.py     how a pack is cut, so that sums over an image's tokens need no atomics
    norms.py      gate, residual and modulated norm in one pass, forward and backward
    rotation.py   bias, norm over the head dimension and rotation of queries and keys
    gelu.py       bias and GELU

Imported only where Triton is there and the kernels are chosen. Everything is computed in float32, whatever the dtype of
the tensors in memory. Every sum has a fixed order: equal inputs give equal bits.
"""
