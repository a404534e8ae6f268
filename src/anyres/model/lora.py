"""LoRA (arXiv 2106.09685): the large linear maps of the blocks change by a product of two thin matrices, W + B·A.

In training the change is a parametrisation of the map's weight: whatever reads `linear.weight`, kernels and recorded
steps too, gets the changed one, and gradients flow on to A and B. For sampling it is added to the weights once. Files
are peft's, and are read by peft, so that adapters which it trained can be sampled from as well.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..errors import BackendError, CheckpointError, first_line
from ..shapes import Float, Tensor
from ..weightfiles import read_weights, write_weights
from .nit import NiT

CONFIG, STEM = "adapter_config.json", "adapter_model"
# what peft is told: regular expression of the maps, and what is trained whole
TARGETS = r"blocks\.\d+\.(attention\.(qkv|out)|mlp\.(up|down))"
LABELS = "conditioner.labels"
PREFIX = "base_model.model."  # of names in peft's files


class LowRank(nn.Module):
    """The parametrisation of a weight by its change.

    Args:
        weight: the map's, (out, in).
        rank: of the change.
    """

    def __init__(self, weight: Float[Tensor, "out in"], rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))  # so that nothing changes at first
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as peft begins

    def forward(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The changed weight."""
        return torch.addmm(weight, self.up, self.down)


def attach(network: NiT, rank: int) -> None:
    """Freeze a network but for its label table, and give its blocks' linear maps changes to be trained, all zero.

    Raises:
        BackendError: peft is not installed, without which they could not be saved.
    """
    _peft()
    network.requires_grad_(False)
    for name, linear in list(network.named_modules()):
        if isinstance(linear, nn.Linear) and re.fullmatch(TARGETS, name):
            parametrize.register_parametrization(linear, "weight", LowRank(linear.weight, rank))
    network.conditioner.labels.requires_grad_(True)


@torch.no_grad()
def merged(network: NiT) -> NiT:
    """The plain network with the changes in its weights; what has none is shared. A plain one is given back."""
    changed = _changed(network)
    if not changed:
        return network
    weights = {name: value for name, value in network.state_dict().items() if ".parametrizations." not in name}
    weights |= {f"{name}.weight": linear.weight.detach() for name, linear in changed.items()}
    with torch.device("meta"):
        plain = NiT(network.config, attention=network.attention, kernels=network.kernels)
    plain.load_state_dict(weights, assign=True)
    return plain.train(network.training).requires_grad_(False)


def save_adapter(network: NiT, folder: Path, *, base: str, revision: str | None) -> None:
    """Write a network's changes and its label table in peft's form.

    Args:
        network: with changes attached.
        folder: made if missing.
        base: name of the model that they change.
        revision: the commit of its hub repository.

    Raises:
        BackendError: peft is not installed.
        DataError: the folder cannot be written to.
    """
    weights = {f"{LABELS}.weight": network.conditioner.labels.weight}
    changes = {name: linear.parametrizations.weight[0] for name, linear in _changed(network).items()}
    for name, change in changes.items():
        weights |= {f"{name}.lora_A.weight": change.down, f"{name}.lora_B.weight": change.up}
    write_weights({PREFIX + name: value for name, value in weights.items()}, folder, STEM)
    rank = len(next(iter(changes.values())).down)
    config = _peft().LoraConfig(
        r=rank,
        lora_alpha=rank,  # peft multiplies B·A by alpha over rank
        target_modules=TARGETS,
        modules_to_save=[LABELS],
        base_model_name_or_path=base,
        revision=revision,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))


def load_adapter(folder: Path, base: NiT, num_classes: int) -> NiT:
    """A base's network with the changes of an adapter in its weights.

    Args:
        folder: the adapter's, as peft or `save_adapter` writes it.
        base: the plain network that it changes.
        num_classes: labels of the adapter, which brings its own table where they are others.

    Raises:
        BackendError: peft is not installed.
        CheckpointError: the adapter is damaged, or does not fit the base.
    """
    peft, weights = _peft(), read_weights(folder, STEM)
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        config.base_model_name_or_path = None  # peft would warn that it sees another name
        network = peft.get_peft_model(_with_classes(base, num_classes, weights), config)
        found = peft.set_peft_model_state_dict(network, weights)
    except Exception as error:  # peft reports what does not fit by many types
        raise _unfit(folder, first_line(error)) from error
    missing = [name for name in found.missing_keys if "lora_" in name or ".modules_to_save." in name]
    if missing or found.unexpected_keys:
        wrong = [f"{name} is missing" for name in missing]
        wrong += [f"{name} has no place" for name in found.unexpected_keys]
        raise _unfit(folder, "; ".join(wrong[:4]))
    return network.merge_and_unload().eval().requires_grad_(False)


def _changed(network: NiT) -> dict[str, Any]:
    """The linear maps that have changes attached, by name."""
    return {name: part for name, part in network.named_modules() if parametrize.is_parametrized(part, "weight")}


def _with_classes(base: NiT, num_classes: int, weights: Mapping[str, Tensor]) -> NiT:
    """The base with room for the adapter's label table; its own table goes."""
    table = f"{LABELS}.weight"
    if num_classes == base.config.num_classes or PREFIX + table not in weights:
        return base
    with torch.device("meta"):
        network = NiT(replace(base.config, num_classes=num_classes), attention=base.attention, kernels=base.kernels)
    state = base.state_dict()
    empty = state[table].new_zeros(num_classes + 1, base.config.hidden_size)
    network.load_state_dict({**state, table: empty}, assign=True)
    return network


def _unfit(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"the adapter in {folder} cannot be used: {what}",
        wanted="a whole adapter of peft for its base model",
        fix="restore the folder from a copy, and check the base model's name in adapter_config.json",
    )


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise BackendError(
            f"LoRA needs peft, which is not installed: {first_line(error)}",
            wanted="the package peft",
            fix="pip install 'anyres[lora]'",
        ) from error
    return peft
