"""Addressed randomness: every draw is a pure function of an address, on every device and batch.

An address is a sequence of integers and strings, such as (seed, "noise", step, pack). It is hashed into the
key of a counter-based generator (Philox), so no draw depends on how many were made before it, on the number of
processes, or on what else is in a batch. Draws are made on the host, which is what makes them equal on every
device; a pack's noise is 2 MB.
"""

import hashlib

import numpy as np
import torch

from .shapes import Float, Tensor

Address = int | str


def generator(*address: Address) -> np.random.Generator:
    """A generator keyed by the address; equal addresses give equal streams."""
    # the length prefix and the type keep ("1", 2) and (1, "2") or ("ab",) and ("a", "b") apart
    text = "".join(f"{type(part).__name__}:{len(str(part))}:{part};" for part in address)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


def normal(shape: tuple[int, ...], *address: Address) -> Float[Tensor, "..."]:
    """Standard normal float32 draws on the host."""
    return torch.from_numpy(generator(*address).standard_normal(shape, dtype=np.float32))


def uniform(shape: tuple[int, ...], *address: Address) -> Float[Tensor, "..."]:
    """Float32 draws from [0, 1) on the host."""
    return torch.from_numpy(generator(*address).random(shape, dtype=np.float32))
