"""Triton kernels of the optimizer; `anyres.train.update` says what they compute."""
