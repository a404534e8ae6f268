"""Addressed randomness: every draw is a pure function of an address, on every device and batch.

An address is a sequence of integers and strings, such as (seed, "noise", step, pack). It is hashed into the
key of a counter-based generator (Philox), so no draw depends on how many were made before it, on the number of
processes, or on what else is in a batch. Draws are made on the host, which is what makes them equal on every
device. Only the noise of a pack in training, which is large, has a definition that a GPU follows, too: `normal_of`.
"""

import hashlib
import math

import numpy as np
import torch

from .shapes import Float, Int, Tensor

Address = int | str


def generator(*address: Address) -> np.random.Generator:
    """A generator keyed by the address; equal addresses give equal streams."""
    return np.random.Generator(np.random.Philox(key=_digest(*address)))


def normal(shape: tuple[int, ...], *address: Address) -> Float[Tensor, "..."]:
    """Standard normal float32 draws on the host."""
    return fill_normal(torch.empty(shape), *address)


def fill_normal(out: Float[Tensor, "..."], *address: Address) -> Float[Tensor, "..."]:
    """The same draws, written into a contiguous float32 tensor on the host."""
    generator(*address).standard_normal(out=out.numpy(), dtype=np.float32)
    return out


def uniform(shape: tuple[int, ...], *address: Address) -> Float[Tensor, "..."]:
    """Float32 draws from [0, 1) on the host."""
    return torch.from_numpy(generator(*address).random(shape, dtype=np.float32))


def key(*address: Address) -> Int[Tensor, "2"]:
    """The address as the 128 bits that key Philox."""
    return torch.tensor(_digest(*address).view(np.int64))


def normal_of(key: Int[Tensor, "2"], shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Standard normal float32 draws on the host, by a rule that a GPU follows as quickly (`train.kernels.normal`).

    Each 64 bits of Philox4x64-10 (Salmon et al. 2011; counters from 1) give two values by Box and Muller: r·cos φ and
    r·sin φ, with r = √(−2 ln u) of the lower 32 bits' u in (0, 1], and φ of the upper 32 bits. So the bits are the same
    on every device, and the values to rounding; a value does not depend on how many are drawn.
    """
    count = math.prod(shape)
    bits = np.random.Philox(key=key.numpy().view(np.uint64)).random_raw(-(-count // 2))
    halves = torch.from_numpy(bits.view(np.uint32).astype(np.float32))  # lower half first, rounded
    low, high = halves[::2], halves[1::2]
    radius = low.add_(1).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = high.mul_(2 * math.pi * 2.0**-32)
    values = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1)
    return values.flatten()[:count].reshape(shape)


def _digest(*address: Address) -> np.ndarray:
    # the length prefix and the type keep ("1", 2) and (1, "2") or ("ab",) and ("a", "b") apart
    text = "".join(f"{type(part).__name__}:{len(str(part))}:{part};" for part in address)
    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), dtype=np.uint64)
