"""The attention of a pack, block by block: the paper's second experiment.

Attention is computed over the whole pack here, as a dense matrix by the `reference` backend, so that what a token
gives to another image would be seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .. import noise
from ..grid import Grid
from ..model.attention import DenseMask, attention_weights
from ..model.layers import PackContext, SelfAttention
from ..model.nit import NiT
from ..packing.pack import PackLayout
from ..shapes import Float, Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class PackAttention:
    """Where the tokens of a pack look.

    Attributes:
        weights: mean over heads, for each block.
        layout: the pack.
        outside: greatest weight that a token gives to a token of another image.
    """

    weights: Float[Tensor, "blocks tokens tokens"]
    layout: PackLayout
    outside: float


@torch.no_grad()
def pack_attention(model: NiT, grids: Sequence[Grid], labels: Sequence[int], t: float = 0.5) -> PackAttention:
    """Run a pack of noise through the network and keep every block's attention.

    Args:
        model: any network; it runs in float32 on its device, with the `reference` backend.
        grids: of the images.
        labels: their class numbers.
        t: their time.
    """
    layout = PackLayout.from_grids(grids).to(model.device)
    kept: list[Tensor] = []

    def keep(module: SelfAttention, inputs: tuple[Tensor, Tensor, PackContext]) -> None:
        x, _, pack = inputs
        q, k, _ = module.project(x, pack)
        assert isinstance(pack.attention, DenseMask)  # noqa: S101 - the backend was chosen below
        kept.append(attention_weights(q, k, pack.attention).mean(0))

    modules = [module for module in model.modules() if isinstance(module, SelfAttention)]
    handles = [module.register_forward_pre_hook(keep) for module in modules]
    backend, model.attention = model.attention, "reference"
    try:
        tokens = noise.normal((layout.tokens, model.config.token_values), "attention").to(model.device)
        times = torch.full((len(grids),), t, device=model.device)
        model(tokens.to(model.compute_dtype), times, torch.tensor(list(labels), device=model.device), layout)
    finally:
        model.attention = backend
        for handle in handles:
            handle.remove()
    weights = torch.stack(kept).float().cpu()
    layout = layout.to("cpu")
    same = layout.image_index[:, None] == layout.image_index[None, :]
    outside = weights[:, ~same]
    return PackAttention(weights=weights, layout=layout, outside=float(outside.max()) if outside.numel() else 0.0)
