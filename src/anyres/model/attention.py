"""Attention within each image of a pack: one function, five backends.

    reference  a dense mask; any device and dtype; slow; for tests and export
    sdpa       images of equal length batched through torch's scaled_dot_product_attention; any device
    varlen     torch.nn.attention.varlen; CUDA in half precision
    flex       torch's FlexAttention with a document mask; CUDA
    triton     our kernels, made for many short images (`kernels/attention.py`); CUDA in half precision

What depends on the layout alone is planned once a pack (`plan_attention`); each block then calls `attend`.
"""

import functools
import importlib.util
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F

from ..config import suggestion
from ..errors import BackendError, ConfigError
from ..packing.pack import PackLayout
from ..shapes import Bool, Float, Int, Tensor
from .plain import Reordered

logger = logging.getLogger(__name__)

# what their plans hold has a static shape; the groups of `sdpa` and the mask of `reference` follow the images
STATIC_BACKENDS = ("varlen", "triton")

Backend = Literal["auto", "reference", "sdpa", "varlen", "flex", "triton"]


@dataclass(frozen=True, eq=False)
class DenseMask:
    """`reference`: True where a query may see a key."""

    mask: Bool[Tensor, "tokens tokens"]


@dataclass(frozen=True, eq=False)
class LengthGroups:
    """`sdpa`: images of equal length that lie side by side, or can be laid so.

    Attributes:
        shapes: (images, length) of each group.
        order: the token numbers of the groups end to end, and what undoes that; None where tokens stay where they are.
    """

    shapes: tuple[tuple[int, int], ...]
    order: tuple[Int[Tensor, "tokens"], Int[Tensor, "tokens"]] | None


@dataclass(frozen=True, eq=False)
class Segments:
    """`varlen`: cumulative lengths, and a bound on the longest."""

    cu_seqlens: Int[Tensor, "boundaries"]
    max_seqlen: int


@dataclass(frozen=True, eq=False)
class Blocks:
    """`flex`: the block mask."""

    mask: Any  # torch.nn.attention.flex_attention.BlockMask; flex is imported only when it is chosen


@dataclass(frozen=True, eq=False)
class Tiled:
    """`triton`: the pack cut into tiles, and cut for passes without gradients where it is planned for those."""

    tiles: Any  # kernels.attention.Tiles; Triton is imported only when it is chosen
    forward: Any = None  # kernels.forward_attention.Plan


# tokens of neighbours of one length, in the mean, from which on a call for each costs less than laying tokens together
LONG_RUN = 256

AttentionPlan = DenseMask | LengthGroups | Segments | Blocks | Tiled


def pick_backend(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """Resolve "auto" for a device and dtype, and check an explicit choice.

    Raises:
        ConfigError: an unknown name.
        BackendError: this machine or dtype cannot run the backend.
    """
    if backend == "auto":
        choice = next(name for name in _PREFERRED if not _missing(name, device, dtype))
        _say_once(choice, device.type, dtype)
        return choice
    if backend not in Backend.__args__:
        raise ConfigError(
            f"got attention backend {backend!r}",
            wanted=f"one of {', '.join(Backend.__args__)}",
            fix=suggestion(backend, Backend.__args__) or "use 'auto'",
        )
    missing = _missing(backend, device, dtype)
    if missing:
        raise BackendError(
            f"attention backend {backend!r} cannot run here: it needs {missing}, "
            f"and the model runs on {device.type} in {str(dtype).removeprefix('torch.')}",
            wanted="a backend that this device and dtype can run",
            fix="use 'auto', or 'sdpa', which runs anywhere",
        )
    return backend


def plan_attention(layout: PackLayout, backend: str, dtype: torch.dtype) -> AttentionPlan:
    """What `attend` needs of a pack; computed once a pack, outside the blocks.

    Args:
        layout: the pack, on the device where attention will run.
        backend: a name of the module's docstring, or "auto".
        dtype: the dtype of queries, keys and values.

    Raises:
        ConfigError: an unknown name.
        BackendError: this machine or dtype cannot run the backend.
    """
    return _PLANNERS[pick_backend(backend, layout.device, dtype)](layout)


def attend(
    q: Float[Tensor, "tokens heads dim"],
    k: Float[Tensor, "tokens heads dim"],
    v: Float[Tensor, "tokens heads dim"],
    plan: AttentionPlan,
) -> Float[Tensor, "tokens heads dim"]:
    """Softmax attention with scale dim^−½, each token over the tokens of its own image."""
    return _ATTENTIONS[type(plan)](q, k, v, plan)


def attention_weights(
    q: Float[Tensor, "tokens heads dim"], k: Float[Tensor, "tokens heads dim"], plan: DenseMask
) -> Float[Tensor, "heads tokens tokens"]:
    """The attention matrix itself, which only `reference` ever builds."""
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    return scores.masked_fill(~plan.mask, -torch.inf).softmax(dim=-1)


def _reference(q: Tensor, k: Tensor, v: Tensor, plan: DenseMask) -> Tensor:
    return torch.einsum("hqk,khd->qhd", attention_weights(q, k, plan), v)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, plan: LengthGroups) -> Tensor:
    if plan.order is not None:
        q, k, v = (Reordered.apply(tensor, *plan.order) for tensor in (q, k, v))
    sizes, outputs = [images * length for images, length in plan.shapes], []
    for shape, *parts in zip(plan.shapes, *(tensor.split(sizes) for tensor in (q, k, v)), strict=True):
        # (images, length, heads, dim) → heads before length, as torch wants them
        grouped = (part.unflatten(0, shape).transpose(1, 2) for part in parts)
        outputs.append(F.scaled_dot_product_attention(*grouped).transpose(1, 2).flatten(0, 1))
    attended = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    return attended if plan.order is None else cast(Tensor, Reordered.apply(attended, *plan.order[::-1]))


def _varlen(q: Tensor, k: Tensor, v: Tensor, plan: Segments) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = plan.cu_seqlens, plan.max_seqlen
    return cast(Tensor, varlen_attn(q, k, v, bounds, bounds, longest, longest))


def _flex(q: Tensor, k: Tensor, v: Tensor, plan: Blocks) -> Tensor:
    batched = (tensor.transpose(0, 1)[None].contiguous() for tensor in (q, k, v))
    return _compiled_flex()(*batched, block_mask=plan.mask)[0].transpose(0, 1)


def _tiled(q: Tensor, k: Tensor, v: Tensor, plan: Tiled) -> Tensor:
    from .tiled_attention import TiledAttention

    return cast(Tensor, TiledAttention.apply(q, k, v, plan.tiles))


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _plan_reference(layout: PackLayout) -> DenseMask:
    return DenseMask(layout.image_index[:, None] == layout.image_index[None, :])


def _plan_sdpa(layout: PackLayout) -> LengthGroups:
    lengths = [length for length in layout.segments if length]
    runs = tuple((len(list(run)), length) for length, run in groupby(lengths))
    if len(runs) == len(set(lengths)) or sum(lengths) >= LONG_RUN * len(runs):
        return LengthGroups(runs, None)
    starts: dict[int, list[int]] = defaultdict(list)
    for length, start in zip(lengths, accumulate(lengths, initial=0), strict=False):
        starts[length].append(start)
    groups = {length: torch.tensor(first)[:, None] + torch.arange(length) for length, first in starts.items()}
    order = torch.cat([group.flatten() for group in groups.values()])
    shapes = tuple((len(group), length) for length, group in groups.items())
    return LengthGroups(shapes, (order.to(layout.device), torch.argsort(order).to(layout.device)))


def _plan_varlen(layout: PackLayout) -> Segments:
    return Segments(layout.cu_seqlens, layout.shape.max_seqlen)


def _plan_flex(layout: PackLayout) -> Blocks:
    from torch.nn.attention.flex_attention import create_block_mask

    image, tokens = layout.image_index, layout.shape.tokens
    mask = create_block_mask(
        lambda _batch, _head, query, key: image[query] == image[key],
        None,
        None,
        tokens,
        tokens,
        device=str(layout.device),
    )
    return Blocks(mask)


def _plan_triton(layout: PackLayout) -> Tiled:
    from .kernels import attention, forward_attention

    forward = None if torch.is_grad_enabled() else forward_attention.plan(layout.cu_seqlens, layout.shape)
    return Tiled(attention.tiles(layout.cu_seqlens, layout.shape.tokens), forward)


_PLANNERS: dict[str, Callable[[PackLayout], AttentionPlan]] = {
    "reference": _plan_reference,
    "sdpa": _plan_sdpa,
    "varlen": _plan_varlen,
    "flex": _plan_flex,
    "triton": _plan_triton,
}
_ATTENTIONS: dict[type, Callable[..., Tensor]] = {
    DenseMask: _reference,
    LengthGroups: _sdpa,
    Segments: _varlen,
    Blocks: _flex,
    Tiled: _tiled,
}


# by measurement (docs/performance.md); float32 has no tensor cores that keep its precision
_PREFERRED = ("triton", "varlen", "sdpa")


def _missing(backend: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """What the backend lacks here, in words, or None."""
    if backend in ("varlen", "flex", "triton") and device.type != "cuda":
        return "a CUDA device"
    if backend in ("varlen", "triton") and dtype not in (torch.float16, torch.bfloat16):
        return "float16 or bfloat16"
    if backend == "triton" and importlib.util.find_spec("triton") is None:
        return "the triton package, which torch brings along on Linux"
    if backend == "varlen" and importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return "torch.nn.attention.varlen (torch 2.10 or later)"
    return None


@functools.cache
def _say_once(choice: str, device: str, dtype: torch.dtype) -> None:
    logger.info("attention backend: %s (auto, %s in %s)", choice, device, str(dtype).removeprefix("torch."))
