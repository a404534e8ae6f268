"""From a name or folder to an autoencoder."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .. import hub
from ..config import suggestion
from ..errors import CheckpointError, DataError, first_line
from ..files import read_json
from ..weightfiles import check_weights, read_weights
from .autoencoder import AUTOENCODER, DIFFUSERS_STEM, Autoencoder, DcAutoencoder, DiffusersAutoencoder, KlAutoencoder
from .patch_pca import STEM, PatchPCA


def load_autoencoder(name: str, *, revision: str | None = None) -> Autoencoder:
    """Load an autoencoder, on the CPU in float32.

    Args:
        name: a folder, or a hub id. Its `config.json` says what it is. Of a model's or a run's folder, a model in the
            box, or a dataset: the one inside.
        revision: branch, tag or commit of a hub repository.

    Raises:
        CheckpointError: files are missing or damaged, or its kind is not known.
        ConfigError, DataError: nothing has this name; see `hub.resolve`.
    """
    found = hub.resolve(name, revision=revision)
    name, revision = hub.lasting(name, found)
    folder = _inside(found)
    kind = _kind(folder)
    if kind not in _LOADERS:
        raise CheckpointError(
            f"{folder / 'config.json'} describes a {kind!r}",
            wanted=f"one of {', '.join(_LOADERS)}",
            fix=suggestion(kind, _LOADERS) or "pass the folder of an autoencoder (in a pipeline: its vae/)",
        )
    try:
        return _LOADERS[kind](folder, name, revision)
    except CheckpointError:
        raise
    except Exception as error:  # diffusers and safetensors report damage by many types
        raise CheckpointError(
            f"the autoencoder in {folder} cannot be loaded: {first_line(error)}",
            wanted="config.json and whole safetensors (pickled weights are never read)",
            fix="fetch it again, or convert its weights to safetensors",
        ) from error


def _kind(folder: Path) -> str:
    try:
        config = read_json(folder / "config.json")
    except DataError as error:
        raise CheckpointError(
            f"{folder} is not an autoencoder's folder: {error.got}",
            wanted="config.json and safetensors",
            fix="check the path",
        ) from error
    return str(config.get("_class_name")) if isinstance(config, dict) else str(config)


def has_autoencoder(folder: Path) -> bool:
    """Whether the folder of a model or a training run holds an autoencoder."""
    return _inside(folder) != folder


def _inside(folder: Path) -> Path:
    """The autoencoder's folder in that of a model, a training run or a dataset; else the folder itself."""
    within = (folder / AUTOENCODER, folder / "model" / AUTOENCODER)
    return next((path for path in within if (path / "config.json").is_file()), folder)


def _patch_pca(folder: Path, _name: str, _revision: str | None) -> PatchPCA:
    state = read_weights(folder, STEM)
    return PatchPCA(*(state[name].float() for name in ("basis", "mean", "spread")))


def _diffusers(class_name: str, wrapper: type[DiffusersAutoencoder]) -> Callable[[Path, str, str | None], Autoencoder]:
    def load(folder: Path, name: str, revision: str | None) -> DiffusersAutoencoder:
        check_weights(folder, DIFFUSERS_STEM)  # diffusers would not say which file is damaged
        network, found = _class_of_diffusers(class_name).from_pretrained(
            folder, use_safetensors=True, torch_dtype=torch.float32, low_cpu_mem_usage=False, output_loading_info=True
        )
        # diffusers would leave missing weights at random values, with a warning
        kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
        wrong = [f"{kind}: {list(found[kind])[:3]}" for kind in kinds if found[kind]]
        if wrong:
            raise ValueError(f"its weights do not fit its config.json ({'; '.join(wrong)})")
        return wrapper(network, name=name, revision=revision)

    return load


def _class_of_diffusers(name: str) -> Any:
    """A class of diffusers; its import takes seconds, and a fifth more while garbage is collected."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        import diffusers

        return getattr(diffusers, name)
    finally:
        if collecting:
            gc.enable()


_LOADERS: dict[str, Callable[[Path, str, str | None], Autoencoder]] = {
    "PatchPCA": _patch_pca,
    "AutoencoderDC": _diffusers("AutoencoderDC", DcAutoencoder),
    "AutoencoderKL": _diffusers("AutoencoderKL", KlAutoencoder),
}
