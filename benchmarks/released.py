"""The released code, imported from a checkout that is not part of this project; nothing of it is copied.

It wants flash-attn, which gets a stand-in by torch's own kernel for packed sequences. Its trainer's script wants much
more, so that what its step does around model, loss and average is said again here, call by call.
"""

import copy
import gc
import hashlib
import importlib
import importlib.util
import logging
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from anyres.errors import DataError
from anyres.model import released as names
from anyres.model.config import NiTConfig
from anyres.model.nit import NiT
from anyres.train.losses import DrawnPack

CLASSES = 1000  # its samplers have the null label written into them
_MODEL = "nit/models/c2i/nit_model.py"
_LOSS = "nit/schedulers/flow_matching/loss.py"
_SAMPLERS = "nit/schedulers/flow_matching/samplers_c2i.py"
_AVERAGE = "nit/utils/train_utils.py"


class ReleasedCode:
    """What the benchmarks call of it.

    Args:
        path: of the checkout.

    Raises:
        DataError: it is none.
    """

    def __init__(self, path: Path) -> None:
        used = [path / name for name in (_MODEL, _LOSS, _SAMPLERS, _AVERAGE)]
        if missing := [str(file) for file in used if not file.is_file()]:
            raise DataError(f"there is no {missing[0]}", wanted="a checkout of the released code", fix="check the path")
        self.fingerprint = hashlib.sha256(b"".join(file.read_bytes() for file in used)).hexdigest()[:12]
        sys.path.insert(0, str(path.resolve()))
        with _stand_in("flash_attn", flash_attn_varlen_func=_varlen):
            model = importlib.import_module("nit.models.c2i.nit_model")
        self.network = model.NiT
        self.loss = importlib.import_module("nit.schedulers.flow_matching.loss").FlowMatchingLoss
        self.euler = importlib.import_module("nit.schedulers.flow_matching.samplers_c2i").euler_sampler
        with _stand_in("diffusers.utils", logging=types.SimpleNamespace(get_logger=logging.getLogger)):
            self.update_average = _alone(path / _AVERAGE).update_ema
        self._tables = model.VisionRotaryEmbedding.get_cached_2d_rope_from_grid

    def model(self, config: NiTConfig, device: torch.device, *, seed: int) -> nn.Module:
        """Its network, in float32, with random weights everywhere, and without its projector's work."""
        torch.manual_seed(seed)
        low_rank = {"use_adaln_lora": True, "adaln_lora_dim": config.adaln_rank} if config.adaln_rank else {}
        with device:
            model = self.network(
                in_channels=config.channels,
                patch_size=config.patch_size,
                hidden_size=config.hidden_size,
                depth=config.depth,
                num_heads=config.num_heads,
                num_classes=config.num_classes,
                mlp_ratio=config.mlp_ratio,
                qk_norm=config.qk_norm,
                class_dropout_prob=0.1,
                encoder_depth=0,  # after no block: it would project in every pass, also where no loss wants it
                projector_dim=1,
                z_dim=1,
                **low_rank,
            )
        randomise(model)
        return model

    def forget(self) -> None:
        """Give back the memory of what is gone; its cache of rotary tables would keep some."""
        self._tables.cache_clear()
        release_memory()


class ReleasedStep:
    """Its training step: model under autocast, loss, backward, clip, AdamW, average; no teacher.

    Args:
        code: the released code.
        model: its network.
        pack: the data, on the host; the noise is the pack's, the times are drawn anew by the loss.
        config: of our network, for the shape of a token.
    """

    def __init__(self, code: ReleasedCode, model: nn.Module, pack: DrawnPack, config: NiTConfig) -> None:
        self._code, self._model, self._pack = code, model.train(), pack
        self._average = copy.deepcopy(model).requires_grad_(False)
        self._loss = code.loss(path_type="linear", prediction="v", weighting="lognormal")
        # as its configurations have it: torch's default implementation, which is not the fused one
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.01, eps=1e-6)
        self._token = (config.channels, config.patch_size, config.patch_size)
        self._sizes = torch.tensor([(grid.height, grid.width) for grid in pack.layout.grids], dtype=torch.int)
        self._device = next(model.parameters()).device

    def __call__(self) -> torch.Tensor:
        """One step; its loss, on the device."""
        tokens, images = self._pack.layout.tokens, self._pack.layout.images
        latents, noise = (
            part[:tokens].unflatten(1, self._token).to(self._device, non_blocking=True)
            for part in (self._pack.latents, self._pack.noise)
        )
        labels = self._pack.labels[:images].to(self._device, torch.int)
        inputs = {"y": labels, "hw_list": self._sizes}
        loss, _ = self._loss(self._forward, images, latents, noise, inputs, use_dir_loss=True, zs=[])
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._code.update_average(self._average, self._model, 0.9999)
        return loss.detach()

    def _forward(self, x: torch.Tensor, t: torch.Tensor, hw_list: torch.Tensor, **rest: Any) -> Any:
        """The model as its launcher wraps it: bfloat16 inside, float32 outside, every tensor on the device."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            velocity, projected = self._model(x, t, hw_list=hw_list.to(self._device), **rest)
        return velocity.float(), projected


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Random weights where a network starts from zeros, biases included.

    An untouched AdaLN-Zero network is the identity, whose gradients are zeros: nothing to time or compare.
    """
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(std=parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1)


def load_into(model: NiT, state: Mapping[str, torch.Tensor]) -> None:
    """Give our network a released one's weights, under our names; the projector's are left out."""
    renamed = names.our_names(name for name in state if not name.startswith("projector."))
    ours = {name: state[theirs] for theirs, name in renamed.items()}
    ours["patch_embedding.weight"] = ours["patch_embedding.weight"].flatten(1)  # a convolution of patches: a linear map
    model.load_state_dict(ours)


def release_memory() -> None:
    """Give back what nothing holds any more, and begin to count the peak anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, max_q: int, max_k: int
) -> torch.Tensor:
    """In flash-attn's place: (tokens, heads, dim) each, attention within the segments of the cumulative lengths."""
    if q.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        return varlen_attn(q, k, v, cu_q, cu_k, max_q, max_k)
    lengths = cu_q.diff().tolist()
    parts = zip(*(tensor.transpose(0, 1).split(lengths, dim=1) for tensor in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts], dim=1).transpose(0, 1)


@contextmanager
def _stand_in(name: str, **contents: Any) -> Iterator[None]:
    """A module of this name and these contents, and of its parents' names, while something is imported that asks."""
    parents = [name[:end] for end in range(len(name)) if name[end] == "."]
    before = {each: sys.modules.get(each) for each in (*parents, name)}
    for each in before:
        sys.modules[each] = types.ModuleType(each)
    vars(sys.modules[name]).update(contents)
    try:
        yield
    finally:
        for each, module in before.items():
            del sys.modules[each]
            if module is not None:
                sys.modules[each] = module


def _alone(file: Path) -> types.ModuleType:
    """A module without its package, which would import much that is not used here."""
    spec = importlib.util.spec_from_file_location("released_average", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
