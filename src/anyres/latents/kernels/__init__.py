"""Triton kernels of what lies between an autoencoder's convolutions and linear maps.

    steps.py             bias, activation, norm, residual and shortcuts: one pass over memory each
    depthwise.py         depthwise convolutions, with what follows them
    linear_attention.py  attention without softmax

Maps are (images, height, width, channels), contiguous: channels last, as half-precision convolutions have them.
Everything is computed in float32, whatever the dtype in memory. Imported only where Triton is there.
"""
