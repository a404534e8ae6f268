"""Reading and writing weights: a folder of `config.json` and safetensors, on disk or on the hub."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..config import from_dict, to_dict
from ..errors import CheckpointError, ConfigError, DataError
from ..files import make_folder, read_json, write_json, writing
from ..shapes import Tensor
from .config import NiTConfig

FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"

Model = TypeVar("Model", bound=torch.nn.Module)


def save(model: Any, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a model's weights and configuration into a folder, each file whole or not at all."""
    from huggingface_hub import save_torch_state_dict

    make_folder(folder)
    state = {name: value.to(dtype=dtype or value.dtype, device="cpu") for name, value in model.state_dict().items()}
    with writing(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".tmp") as staging:
        save_torch_state_dict(state, staging, metadata={"format": "pt"})
        fresh = sorted(Path(staging).iterdir(), key=lambda file: file.name == INDEX)  # the index after its shards
        for file in fresh:
            file.replace(folder / file.name)
        for stale in set(folder.glob("model*.safetensors*")) - {folder / file.name for file in fresh}:
            stale.unlink()
    write_json(folder / CONFIG, {"_class_name": "NiT", "format_version": FORMAT_VERSION, **to_dict(model.config)})


def load(kind: type[Model], name: str, *, revision: str | None, attention: str) -> Model:
    """Build a model from a folder, built-in name or hub id."""
    from .. import hub

    folder = hub.resolve(name, revision=revision)
    return build(kind, read_config(folder), read_state(folder), source=str(folder), attention=attention)


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


def read_state(folder: Path) -> dict[str, Tensor]:
    """The tensors in a model's folder, in one file or in shards with an index.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    if (folder / INDEX).is_file():
        try:
            index = read_json(folder / INDEX)
        except DataError as error:
            raise CheckpointError(error.got, wanted=error.wanted, fix=error.fix) from error
        state: dict[str, Tensor] = {}
        for shard in sorted(set(index["weight_map"].values())):
            state |= read_safetensors(folder / shard)
        return state
    return read_safetensors(folder / WEIGHTS)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist", wanted="a safetensors file there", fix="check the path, or fetch it again"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}",
            wanted="a whole safetensors file",
            fix="fetch or copy it again; a truncated copy is the usual cause",
        ) from error


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
