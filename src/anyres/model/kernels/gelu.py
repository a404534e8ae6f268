"""Bias and GELU (tanh); in the backward the activation is computed anew instead of kept.

gelu(u) = u·σ(2z) with z = √(2/π)·(u + 0.044715·u³), since tanh(z) = 2σ(2z) − 1.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import sums

WARPS = 4
# of a program: tokens, those it takes at once, columns
FORWARD = {"ROWS": 32, "STEP": 16, "COLS": 256}
BACKWARD = {"ROWS": 128, "STEP": 2, "COLS": 1024}


def forward(product: Tensor, bias: Tensor) -> Tensor:
    """gelu(product + bias) of (tokens, width)."""
    out = torch.empty_like(product)
    tokens, width = product.shape
    _gelu_forward[_grid(tokens, width, FORWARD)](product, bias, out, tokens, width, **FORWARD, num_warps=WARPS)
    return out


def backward(d_out: Tensor, product: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the product and of the bias, in their dtypes."""
    d_out = d_out.contiguous()
    d_product = torch.empty_like(d_out)
    tokens, width = product.shape
    grid = _grid(tokens, width, BACKWARD)
    partial = torch.empty(grid[0], width, device=d_out.device, dtype=torch.float32)
    _gelu_backward[grid](d_out, product, bias, d_product, partial, tokens, width, **BACKWARD, num_warps=WARPS)
    return d_product, sums.over_rows(partial, torch.empty_like(bias))


def _grid(tokens: int, width: int, tile: dict[str, int]) -> tuple[int, int]:
    return triton.cdiv(tokens, tile["ROWS"]), triton.cdiv(width, tile["COLS"])


@triton.jit
def _gate(u):
    """σ(2z) in few instructions: 2**x is one, and 1/√x is one where a quotient is five; -2.302… is -√(8/π)·log2(e)."""
    root = tl.rsqrt(1 + tl.exp2(u * (-2.302208198144325 - 0.1029432395800235 * (u * u))))
    return root * root


@triton.jit
def _slope(u):
    """The derivative of gelu: σ + u·σ·(1 − σ)·2z'."""
    gate = _gate(u)
    return gate + u * (1.5957691216057308 + 0.2140644488 * (u * u)) * (gate - gate * gate)


@triton.jit
def _gelu_forward(product, bias, out, tokens, width, ROWS: tl.constexpr, STEP: tl.constexpr, COLS: tl.constexpr):
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = cols < width
    b = tl.load(bias + cols, mask=inside, other=0.0).to(tl.float32)
    for step in range(0, ROWS, STEP):
        rows = tl.program_id(0) * ROWS + step + tl.arange(0, STEP)
        at = rows[:, None].to(tl.int64) * width + cols[None, :]
        here = (rows < tokens)[:, None] & inside[None, :]
        u = tl.load(product + at, mask=here, other=0.0).to(tl.float32) + b[None, :]
        tl.store(out + at, (u * _gate(u)).to(out.dtype.element_ty), mask=here)


@triton.jit
def _gelu_backward(
    d_out, product, bias, d_product, partial, tokens, width,
    ROWS: tl.constexpr, STEP: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = cols < width
    b = tl.load(bias + cols, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((COLS,), tl.float32)
    for step in range(0, ROWS, STEP):
        rows = tl.program_id(0) * ROWS + step + tl.arange(0, STEP)
        at = rows[:, None].to(tl.int64) * width + cols[None, :]
        here = (rows < tokens)[:, None] & inside[None, :]
        u = tl.load(product + at, mask=here, other=0.0).to(tl.float32) + b[None, :]
        d_u = _slope(u) * tl.load(d_out + at, mask=here, other=0.0).to(tl.float32)
        total += tl.sum(d_u, axis=0)
        tl.store(d_product + at, d_u.to(d_product.dtype.element_ty), mask=here)
    tl.store(partial + tl.program_id(0).to(tl.int64) * width + cols, total, mask=inside)
