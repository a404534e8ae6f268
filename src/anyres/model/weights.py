"""Reading and writing weights: a folder of `config.json` and safetensors, on disk or on the hub."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..config import from_dict, to_dict
from ..errors import CheckpointError, ConfigError, DataError
from ..files import read_json, write_json
from ..shapes import Tensor
from ..weightfiles import read_weights, rounded, write_weights
from .config import NiTConfig

FORMAT_VERSION = 1
STEM = "model"  # of the files of weights
CONFIG = "config.json"

Model = TypeVar("Model", bound=torch.nn.Module)


def save(
    model: Any, folder: Path, *, dtype: torch.dtype | None = None, max_shard_size: int | str | None = None
) -> None:
    """Write a model's weights and configuration into a folder, each file whole or not at all."""
    write_weights(rounded(model.state_dict(), dtype), folder, STEM, max_shard_size=max_shard_size)
    write_json(folder / CONFIG, {"_class_name": "NiT", "format_version": FORMAT_VERSION, **to_dict(model.config)})


def load(kind: type[Model], name: str, *, revision: str | None, attention: str) -> Model:
    """Build a model from a folder, built-in name or hub id."""
    from .. import hub

    folder = hub.resolve(name, revision=revision)
    with hub.mended_by_installing(folder):
        return build(kind, read_config(folder), read_weights(folder, STEM), source=str(folder), attention=attention)


def push(model: Any, repo_id: str, *, private: bool) -> None:
    """Upload a model to the hub."""
    from .. import hub

    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        hub.upload_folder(Path(folder), repo_id, private=private)


def read_config(folder: Path) -> NiTConfig:
    """The architecture in a model's folder.

    Raises:
        CheckpointError: there is none, or it is not one of ours.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {CONFIG}",
            wanted="a model's folder, as save_pretrained or a training run's model/ writes it",
            fix="check the path; a checkpoint of the released code is read by NiT.from_released",
        )
    try:
        data = read_json(path)
        if not isinstance(data, dict) or data.pop("_class_name", None) != "NiT":
            raise CheckpointError(
                f"{path} does not describe a NiT", wanted='"_class_name": "NiT"', fix="check the path"
            )
        version = data.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format version {version!r}",
                wanted=f"version {FORMAT_VERSION}",
                fix="use the version of anyres that wrote it, or a newer one",
            )
        return from_dict(NiTConfig, data, where=str(path))
    except (ConfigError, DataError) as error:
        raise CheckpointError(error.got, wanted=error.wanted, fix=error.fix) from error


def build(kind: type[Model], config: NiTConfig, state: Mapping[str, Tensor], *, source: str, attention: str) -> Model:
    """A model of this architecture with these weights, which must fit it exactly.

    Raises:
        CheckpointError: names or shapes differ; the first few are shown.
    """
    with torch.device("meta"):
        model = kind(config, attention=attention)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not part of the network" for name in found if name not in expected]
    problems += [
        f"{name} is {found[name]}, not {expected[name]}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise CheckpointError(
            f"the weights in {source} are of another architecture: {shown}",
            wanted=f"the tensors of {config}",
            fix="load them with the configuration that they were trained with",
        )
    model.load_state_dict(dict(state), assign=True)
    return model.eval()
