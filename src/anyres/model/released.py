"""Checkpoints of the released code: their parameter names and constructor arguments, and ours."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..shapes import Tensor
from ..weightfiles import read_safetensors
from .config import NiTConfig, ProjectionConfig

# released name → ours, by prefix
_NAMES = (
    (r"^x_embedder\.proj\.", "patch_embedding."),
    (r"^t_embedder\.mlp\.", "conditioner.time."),
    (r"^y_embedder\.embedding_table\.", "conditioner.labels."),
    (r"^(blocks\.\d+)\.attn\.proj\.", r"\1.attention.out."),
    (r"^(blocks\.\d+)\.attn\.", r"\1.attention."),
    (r"\.mlp\.fc1\.", ".mlp.up."),
    (r"\.mlp\.fc2\.", ".mlp.down."),
    (r"^final_layer\.", "head."),
)


def read(path: Path, *, preset: str | None, config: NiTConfig | None) -> tuple[NiTConfig, dict[str, Tensor]]:
    """The architecture and the renamed weights of a released checkpoint; see `NiT.from_released`."""
    if (preset is None) == (config is None):
        raise ConfigError(
            f"got preset {preset!r} and config {config!r}",
            wanted="one of the two",
            fix='name the architecture, such as preset="xl"',
        )
    stored = read_safetensors(path)
    state = {ours: stored[name] for name, ours in our_names(stored).items()}
    state["patch_embedding.weight"] = _as_linear(state, path)
    if config is None:
        config = _from_preset(str(preset), state, path)
    config = dataclasses.replace(config, position_order="column_major")
    if config.projection is None:
        state = {name: value for name, value in state.items() if not name.startswith("projector.")}
    return config, state


def our_names(released_names: Iterable[str]) -> dict[str, str]:
    """Released parameter names → ours."""
    released_names = list(released_names)
    low_rank = any(name.startswith("blocks.0.adaLN_modulation.2.") for name in released_names)
    names = (*_NAMES, (r"^(blocks\.\d+)\.adaLN_modulation\.1\.", r"\1.modulation.down.")) if low_rank else _NAMES
    # index 0 of the released Sequential is SiLU; the last map is the one that makes the six vectors
    names = (*names, (r"\.adaLN_modulation\.[12]\.", ".modulation.up."))
    renamed = {}
    for name in released_names:
        ours = name
        for pattern, replacement in names:
            ours = re.sub(pattern, replacement, ours)
        renamed[name] = ours
    return renamed


def config_from_arguments(arguments: Mapping[str, Any]) -> NiTConfig:
    """Our configuration from the released constructor's arguments, projector included.

    Raises:
        ConfigError: an argument that is missing.
    """
    try:
        return NiTConfig(
            channels=arguments["in_channels"],
            patch_size=arguments["patch_size"],
            hidden_size=arguments["hidden_size"],
            depth=arguments["depth"],
            num_heads=arguments["num_heads"],
            num_classes=arguments["num_classes"],
            mlp_ratio=float(arguments.get("mlp_ratio", 4.0)),
            qk_norm=arguments.get("qk_norm", True),
            adaln_rank=arguments["adaln_lora_dim"] if arguments.get("use_adaln_lora") else None,
            position_order="column_major",
            projection=ProjectionConfig(
                after_block=arguments["encoder_depth"],
                hidden=arguments["projector_dim"],
                dim=arguments["z_dim"],
            ),
        )
    except KeyError as error:
        raise ConfigError(
            f"the released arguments lack {error}", wanted="the constructor's arguments", fix="add it"
        ) from None


def _as_linear(state: Mapping[str, Tensor], path: Path) -> Tensor:
    """The patch embedding, stored as a convolution (D, C, p, p), as the linear map (D, C·p·p) that it is."""
    weight = state.get("patch_embedding.weight")
    if weight is None or weight.ndim != 4:
        raise CheckpointError(
            f"{path} is not a checkpoint of the released code: it has no convolution x_embedder.proj.weight",
            wanted="a state dict under the released parameter names",
            fix="load our own models with NiT.from_pretrained",
        )
    return weight.flatten(1)


def _from_preset(preset: str, state: Mapping[str, Tensor], path: Path) -> NiTConfig:
    table, embedding = state.get("conditioner.labels.weight"), state["patch_embedding.weight"]
    if table is None:
        raise CheckpointError(f"{path} has no label table", wanted="a released checkpoint", fix="check the path")
    return NiTConfig.preset(preset, num_classes=table.shape[0] - 1, channels=embedding.shape[1])
