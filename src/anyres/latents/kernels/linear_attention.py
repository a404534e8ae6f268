"""Linear attention with ReLU in softmax's place (EfficientViT, arXiv 2205.14756), an image and a head a program.

out = relu(q)·(relu(k)ᵀ·v) / (relu(q)·Σ relu(k) + eps), sums in float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

STEP = 64  # pixels at once


def linear_attention(first: Tensor, second: Tensor, dim: int, eps: float) -> Tensor:
    """Queries, keys and values of each head lie side by side in the channels: of the first map, then of the second.

    Args:
        first: (images, height, width, heads·3·dim).
        second: likewise.
        dim: of a head, a power of two of at least 16.
        eps: added to the sum of the weights.

    Returns:
        (images, height, width, 2·heads·dim).
    """
    images, high, wide, width = first.shape
    heads = width // (3 * dim)
    out = torch.empty(images, high, wide, 2 * heads * dim, device=first.device, dtype=first.dtype)
    _linear_attention[(2 * heads, images)](first, second, out, high * wide, eps, HEADS=heads, DIM=dim, STEP=STEP)
    return out


@triton.jit(do_not_specialize=("pixels",))  # one compilation for all sizes
def _linear_attention(first, second, out, pixels, eps, HEADS: tl.constexpr, DIM: tl.constexpr, STEP: tl.constexpr):
    head, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    of = first if head < HEADS else second
    of += image * pixels * (3 * HEADS * DIM) + (head % HEADS) * (3 * DIM)
    to = out + image * pixels * (2 * HEADS * DIM) + head * DIM
    col = tl.arange(0, DIM)
    memory = tl.zeros((DIM, DIM), tl.float32)
    weights = tl.zeros((DIM,), tl.float32)
    for start in range(0, pixels, STEP):
        pixel = start + tl.arange(0, STEP)
        at = of + pixel[:, None] * (3 * HEADS * DIM) + col[None, :]
        here = (pixel < pixels)[:, None]
        k = tl.maximum(tl.load(at + DIM, mask=here, other=0.0), 0.0).to(first.dtype.element_ty)
        v = tl.load(at + 2 * DIM, mask=here, other=0.0)
        memory = tl.dot(tl.trans(k), v, memory, input_precision="ieee")
        weights += tl.sum(k.to(tl.float32), axis=0)
    for start in range(0, pixels, STEP):
        pixel = start + tl.arange(0, STEP)
        here = (pixel < pixels)[:, None]
        q = tl.load(of + pixel[:, None] * (3 * HEADS * DIM) + col[None, :], mask=here, other=0.0)
        q = tl.maximum(q, 0.0).to(tl.float32)
        value = tl.dot(q, memory, input_precision="ieee")
        total = tl.sum(q * weights[None, :], axis=1) + eps
        tl.store(
            to + pixel[:, None] * (2 * HEADS * DIM) + col[None, :],
            (value / total[:, None]).to(out.dtype.element_ty),
            mask=here,
        )
