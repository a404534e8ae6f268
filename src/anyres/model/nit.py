"""NiT: the native-resolution diffusion transformer (arXiv 2506.03131)."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, overload

import torch
from torch import nn

from ..config import require
from ..errors import ConfigError
from ..packing.pack import PackLayout
from ..shapes import Float, Int, Tensor
from . import released, weights
from .attention import plan_attention
from .config import NiTConfig
from .elementwise import elementwise_for
from .float8 import Float8Weights
from .layers import Block, Conditioner, Head, Modulation, PackContext, Projector, xavier
from .rope import RotaryScaling, rotary_tables


class Prediction(NamedTuple):
    """What the network predicts in training; a tuple, since FSDP2 looks for tensors in those.

    Attributes:
        velocity: ε − x for each token, (channels, patch, patch) flattened.
        projection: the REPA projection of each token.
    """

    velocity: Float[Tensor, "tokens values"]
    projection: Float[Tensor, "tokens features"]


class NiT(nn.Module):
    """A diffusion transformer over packs of images of any size.

    Args:
        config: the architecture.
        attention: the attention backend (see `anyres.model.attention`); "auto" picks by device and dtype.
        kernels: what computes the rest (see `anyres.model.elementwise`): "eager", "triton", or "auto" by device.
    """

    def __init__(self, config: NiTConfig, *, attention: str = "auto", kernels: str = "auto") -> None:
        super().__init__()
        self.config = config
        self.attention = attention
        self.kernels = kernels
        self.float8: Float8Weights | None = None
        self.patch_embedding = nn.Linear(config.token_values, config.hidden_size)
        self.conditioner = Conditioner(config.hidden_size, config.num_classes)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = Head(config)
        self.projector: Projector | None = None
        self.reset_parameters()
        if config.projection is not None:  # last, so that the rest begins as it does without
            self.projector = Projector(config.hidden_size, config.projection)

    @overload
    def forward(
        self,
        tokens: Tensor,
        t: Tensor,
        labels: Tensor,
        layout: PackLayout | PackContext,
        *,
        projection: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        tokens: Tensor,
        t: Tensor,
        labels: Tensor,
        layout: PackLayout | PackContext,
        *,
        projection: Literal[True],
    ) -> Prediction: ...

    def forward(
        self,
        tokens: Float[Tensor, "tokens values"],
        t: Float[Tensor, "images"],
        labels: Int[Tensor, "images"],
        layout: PackLayout | PackContext,
        *,
        projection: bool = False,
    ) -> Float[Tensor, "tokens values"] | Prediction:
        """The velocity of each token. Never waits for the device.

        Args:
            tokens: x_t, (channels, patch, patch) flattened, of the pack's images end to end.
            t: time of each row's image: 0 is data, 1 is noise.
            labels: class of each row's image; `config.null_label` is the null class.
            layout: the pack, or what `prepare` made of it.
            projection: also return the REPA projection.

        Raises:
            ConfigError: a projection is asked of a model without a projector.
            BackendError: the attention backend cannot run on this device and dtype.
        """
        pack = self.prepare(layout) if isinstance(layout, PackLayout) else layout
        condition = self.conditioner(t, labels)
        x, branch, projected = self.patch_embedding(tokens), None, None
        for number, block in enumerate(cast(Iterable[Block], self.blocks), start=1):
            x, branch = block(x, branch, condition, pack)
            if projection and number == self._projector_config().after_block:
                tapped = x if branch is None else pack.elementwise.add(x, branch)
                projected = self.projector(tapped) if self.projector is not None else None
        velocity = self.head(x, branch, condition, pack)
        return velocity if projected is None else Prediction(velocity, projected)

    def prepare(self, layout: PackLayout, scaling: RotaryScaling | None = None) -> PackContext:
        """What the blocks need of a pack; worth keeping when several passes share one.

        Args:
            layout: the pack, on the model's device.
            scaling: rotary extrapolation for grids larger than those of training.
        """
        return PackContext(
            elementwise_for(layout, self.kernels, self.float8),
            rotary_tables(layout, self.config.head_dim, self.config.position_order, scaling),
            plan_attention(layout, self.attention, self.compute_dtype),
        )

    def recompute(self, blocks: int) -> None:
        """Of the first so many blocks, and of no other, training keeps the input alone: activation checkpointing.

        The first ones, since the backward pass reaches them last, when what the others keep is free again; so the last
        block is not worth it.

        Raises:
            ConfigError: there are not so many.
        """
        require(0 <= blocks <= self.config.depth, f"{blocks} blocks to recompute", f"0 to {self.config.depth}")
        for number, block in enumerate(cast(Iterable[Block], self.blocks)):
            block.recomputed = number < blocks

    def use_float8(self, *, training: bool) -> None:
        """Compute the blocks' products in 8 bits from now on, on the weights as they are where they are.

        Whatever changes the weights calls `float8.refresh()` afterwards.

        Args:
            training: also for gradients.

        Raises:
            BackendError: the device has no such products.
            ConfigError: a width is not a multiple of 16.
        """
        self.float8 = Float8Weights(cast(nn.ModuleList, self.blocks), training=training)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.patch_embedding.weight.device

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of matrix products: autocast's, where it is on, else the weights'."""
        kind = self.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.patch_embedding.weight.dtype

    @property
    def precision(self) -> str:
        """What products are in, in a word: "float8", or the name of a dtype."""
        return "float8" if self.float8 is not None else str(self.compute_dtype).removeprefix("torch.")

    def reset_parameters(self) -> None:
        """Initialise as published: Xavier-uniform linears, zero modulation and output (docs/method.md)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                xavier(module)
        for module in self.modules():
            if isinstance(module, Conditioner | Modulation | Head):
                module.reset_parameters()

    def without_projection(self) -> "NiT":
        """The same network, sharing its weights, without the REPA projector: what inference needs."""
        if self.projector is None:
            return self
        with torch.device("meta"):
            bare = NiT(replace(self.config, projection=None), attention=self.attention, kernels=self.kernels)
        kept = {name: value for name, value in self.state_dict().items() if not name.startswith("projector.")}
        bare.load_state_dict(kept, assign=True)
        return bare.train(self.training)

    def save_pretrained(
        self, folder: str | Path, *, dtype: torch.dtype | None = None, max_shard_size: int | str | None = None
    ) -> None:
        """Write `config.json` and `model.safetensors` (or shards with an index), without the projector.

        Args:
            folder: where to; created if missing. Each file appears whole or not at all.
            dtype: convert the weights, such as torch.bfloat16; by default they stay as they are.
            max_shard_size: of a file, in bytes or such as "15MB"; by default huggingface_hub's 5 GB.

        Raises:
            ConfigError: the dtype or the size is not one.
            DataError: the folder cannot be written to.
            NonFiniteError: the dtype cannot hold a weight.
        """
        weights.save(self.without_projection(), Path(folder), dtype=dtype, max_shard_size=max_shard_size)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None, attention: str = "auto") -> "NiT":
        """Load a model from a folder, a built-in name or a hub id, on the CPU.

        Raises:
            CheckpointError: files are missing or damaged, or do not fit the architecture.
            ConfigError: nothing has this name.
        """
        return weights.load(cls, str(name), revision=revision, attention=attention)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> None:
        """Upload what `save_pretrained` writes to a hub repository, made if missing."""
        weights.push(self.without_projection(), repo_id, private=private)

    @classmethod
    def from_released(
        cls,
        path: str | Path,
        *,
        preset: str | None = None,
        config: NiTConfig | None = None,
        attention: str = "auto",
    ) -> "NiT":
        """Load a checkpoint of the released code (safetensors); positions are column-major, as it learned them.

        Args:
            path: the file.
            preset: the architecture's name, such as "xl"; classes and channels are read from the weights.
            config: the architecture itself, instead of a preset. With a projection, the projector is loaded too.
            attention: the attention backend.

        Raises:
            CheckpointError: the file is missing, damaged or of another architecture.
            ConfigError: neither or both of preset and config.
        """
        model_config, state = released.read(Path(path), preset=preset, config=config)
        return weights.build(cls, model_config, state, source=str(path), attention=attention)

    def _projector_config(self) -> Any:
        if self.config.projection is None:
            raise ConfigError(
                "the REPA projection was asked of a model without a projector",
                wanted="a model whose config has `projection` set",
                fix="set it in the recipe, or call without projection=True",
            )
        return self.config.projection
