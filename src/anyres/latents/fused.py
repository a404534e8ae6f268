"""Blocks of diffusers' DC-AE with the steps between their convolutions in one kernel each; equal to rounding.

Without it each step is a kernel or more of its own, and on a GPU they take as long as the convolutions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from ..shapes import Float, Tensor
from .kernels import depthwise, steps
from .kernels.linear_attention import linear_attention

Maps = Float[Tensor, "batch _ _ _"]  # (batch, channels, height, width)


def fuse(network: nn.Module) -> None:
    """Run the blocks that are known by the classes below, with their weights as they are now; others stay."""
    for module in network.modules():
        kind = _FUSED.get(type(module).__name__)
        if kind is not None and type(module).__module__.startswith("diffusers.") and kind.fits(module):
            module.forward = kind(module)


class ResBlock:
    """Convolution, SiLU, convolution, RMSNorm, residual.

    Args:
        block: diffusers' own.
    """

    def __init__(self, block: Any) -> None:
        self._block = block

    @staticmethod
    def fits(block: Any) -> bool:
        """Whether it is set up so."""
        return block.norm_type == "rms_norm" and isinstance(block.nonlinearity, nn.SiLU)

    def __call__(self, x: Maps) -> Maps:
        """Run it."""
        first, norm = self._block.conv1, self._block.norm
        inner = steps.bias_silu(_last(F.conv2d(x, first.weight, padding=1)), first.bias)
        h = _last(self._block.conv2(_first(inner)))
        return _first(steps.norm_add(h, norm.weight, norm.bias, norm.eps, _last(x)))


class UpBlock:
    """Twice the side by its nearest neighbours, convolution, and the map itself with its channels spread out.

    Args:
        block: diffusers' own.
    """

    def __init__(self, block: Any) -> None:
        self._conv = block.conv

    @staticmethod
    def fits(block: Any) -> bool:
        """Whether it is set up so."""
        return block.shortcut and block.interpolate and block.interpolation_mode == "nearest"

    def __call__(self, x: Maps) -> Maps:
        """Run it."""
        fine = F.interpolate(x, scale_factor=2, mode="nearest")
        h = _last(F.conv2d(fine, self._conv.weight, padding=1))
        return _first(steps.up_add(h, self._conv.bias, _last(x)))


class DownBlock:
    """Convolution to half the side, and the map itself with its pixels gathered in channels and averaged.

    Args:
        block: diffusers' own.
    """

    def __init__(self, block: Any) -> None:
        self._conv = block.conv

    @staticmethod
    def fits(block: Any) -> bool:
        """Whether it is set up so."""
        return block.shortcut and not block.downsample

    def __call__(self, x: Maps) -> Maps:
        """Run it."""
        h = _last(F.conv2d(x, self._conv.weight, stride=2, padding=1))
        return _first(steps.down_add(h, self._conv.bias, _last(x)))


class Attention:
    """Queries, keys and values, the same seen in a window, linear attention over each, linear map, norm, residual.

    Args:
        block: diffusers' own.
    """

    def __init__(self, block: Any) -> None:
        self._block = block
        self._qkv = torch.cat([block.to_q.weight, block.to_k.weight, block.to_v.weight])
        self._taps = depthwise.taps(block.to_qkv_multiscale[0].proj_in.weight)
        self._mixing = block.to_qkv_multiscale[0].proj_out.weight.flatten(1)

    @staticmethod
    def fits(block: Any) -> bool:
        """Whether it is set up so, with heads of a size that the kernels can take."""
        dim = block.attention_head_dim
        one_window = len(block.to_qkv_multiscale) == 1 and dim >= 16 and dim.bit_count() == 1
        return block.residual_connection and block.norm_type == "rms_norm" and one_window

    def __call__(self, x: Maps) -> Maps:
        """Run it."""
        block, residual = self._block, _last(x)
        near = F.linear(residual, self._qkv)
        wide = depthwise.grouped(near, self._taps, self._mixing)
        h = block.to_out(linear_attention(near, wide, block.attention_head_dim, block.eps))
        norm = block.norm_out
        return _first(steps.norm_add(h, norm.weight, norm.bias, norm.eps, residual))


class GatedBlock:
    """A linear map to many channels, SiLU, depthwise convolution, gate, a linear map back, norm, residual.

    Args:
        block: diffusers' own.
    """

    def __init__(self, block: Any) -> None:
        self._block = block
        self._taps = depthwise.taps(block.conv_depth.weight)
        self._in, self._out = block.conv_inverted.weight.flatten(1), block.conv_point.weight.flatten(1)

    @staticmethod
    def fits(block: Any) -> bool:
        """Whether it is set up so."""
        return block.residual_connection and block.norm_type == "rms_norm"

    def __call__(self, x: Maps) -> Maps:
        """Run it."""
        block, residual = self._block, _last(x)
        h = F.silu(F.linear(residual, self._in, block.conv_inverted.bias), inplace=True)
        h = F.linear(depthwise.gated(h, self._taps, block.conv_depth.bias), self._out)
        return _first(steps.norm_add(h, block.norm.weight, block.norm.bias, block.norm.eps, residual))


def _last(maps: Maps) -> Maps:
    """Channels last, as the kernels take them."""
    return rearrange(maps, "n c h w -> n h w c").contiguous()


def _first(maps: Maps) -> Maps:
    """Channels first again, in name; in memory they stay last."""
    return rearrange(maps, "n h w c -> n c h w")


_FUSED = {
    "ResBlock": ResBlock,
    "DCUpBlock2d": UpBlock,
    "DCDownBlock2d": DownBlock,
    "SanaMultiscaleLinearAttention": Attention,
    "GLUMBConv": GatedBlock,
}
