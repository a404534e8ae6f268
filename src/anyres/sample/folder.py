"""A pipeline's folder: the model's files, `pipeline.json`, `labels.json` and `autoencoder/`."""

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from .. import hub
from ..config import from_dict, to_dict
from ..devices import pick_device
from ..errors import AnyResError, CheckpointError, ConfigError, DataError
from ..files import make_folder, read_json, replacing, write_json
from ..flow.path import PathName
from ..latents.autoencoder import AutoencoderIdentity, LatentScaling
from ..latents.loading import load_autoencoder
from ..model.nit import NiT
from ..model.weights import CONFIG, STEM
from ..weightfiles import patterns
from .request import LabelTable, SamplingSettings

PIPELINE, LABELS, AUTOENCODER = "pipeline.json", "labels.json", "autoencoder"
OUR_FILES = (PIPELINE, LABELS, AUTOENCODER, CONFIG, *patterns(STEM))
FORMAT_VERSION = 1
FLOAT8 = "float8"

P = TypeVar("P")


@dataclass(frozen=True, kw_only=True)
class PipelineFile:
    """pipeline.json.

    Attributes:
        name: how metadata names the model.
        path: the path that the network was trained on.
        trained_side: longest side in tokens that training has seen.
        scaling: from the network's latents to the autoencoder's.
        autoencoder: which one it needs.
        defaults: how to sample where a call does not say.
        format_version: of this file.
    """

    name: str
    path: PathName
    trained_side: int
    scaling: LatentScaling
    autoencoder: AutoencoderIdentity
    defaults: SamplingSettings
    format_version: int = FORMAT_VERSION


def save(pipe: Any, folder: Path, *, dtype: torch.dtype | None = None, max_shard_size: int | str | None = None) -> None:
    """Write a pipeline's folder, whole or not at all; files that are not a pipeline's are kept.

    Raises:
        DataError: the folder holds something else than a pipeline, or cannot be written to.
    """
    folder = folder.resolve()  # a link would be replaced, not what it points to
    foreign = _foreign(folder)
    make_folder(folder.parent)
    with replacing(folder) as staging:
        staging.mkdir()
        pipe.model.save_pretrained(staging, dtype=dtype, max_shard_size=max_shard_size)
        autoencoder = pipe.autoencoder.save(staging / AUTOENCODER, dtype=dtype, max_shard_size=max_shard_size)
        if Path(autoencoder.name).is_absolute():  # where it was loaded from means nothing to others
            autoencoder = replace(autoencoder, name=AUTOENCODER)
        write_json(staging / LABELS, list(pipe.labels.names))
        description = PipelineFile(
            name=pipe.name,
            path=pipe.path,
            trained_side=pipe.trained_side,
            scaling=pipe.scaling,
            autoencoder=autoencoder,
            defaults=pipe.defaults,
        )
        write_json(staging / PIPELINE, to_dict(description))
        for path in foreign:
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, staging / path.name, symlinks=True)
            else:
                shutil.copy2(path, staging / path.name, follow_symlinks=False)


def _foreign(folder: Path) -> list[Path]:
    """What a folder that is to be replaced holds besides a pipeline's files, such as a README."""
    if not folder.is_dir():
        return []
    inside = sorted(folder.iterdir())
    if inside and not (folder / PIPELINE).is_file():
        raise DataError(
            f"{folder} is not empty and holds no pipeline",
            wanted="a new folder, or a pipeline's folder to replace",
            fix="choose another folder",
        )
    return [path for path in inside if not any(path.match(pattern) for pattern in OUR_FILES)]


def push(pipe: Any, repo_id: str, *, private: bool) -> None:
    """Upload a pipeline's folder to the hub."""
    with tempfile.TemporaryDirectory() as temporary:
        save(pipe, Path(temporary) / "pipeline")
        hub.upload_folder(Path(temporary) / "pipeline", repo_id, private=private)


def load(kind: type[P], name: str, *, revision: str | None, device: str, dtype: str, attention: str) -> P:
    """Read a pipeline's folder; see `Pipeline.from_pretrained`."""
    place = pick_device(device)
    network_dtype = _dtype("bfloat16" if dtype == FLOAT8 else dtype, place)
    folder = hub.resolve(name, revision=revision)
    with hub.mended_by_installing(folder):
        pipe: Any = _load(kind, _model_folder(folder), place, network_dtype, attention)
    if dtype == FLOAT8:
        pipe.model.use_float8(training=False)
    return pipe


def _load(kind: type[P], folder: Path, device: torch.device, dtype: torch.dtype, attention: str) -> P:
    description, labels = _read_description(folder)
    if not (folder / AUTOENCODER).is_dir():  # a path that does not exist would be looked up as a name
        raise CheckpointError(
            f"{folder} lacks its {AUTOENCODER} folder",
            wanted=description.autoencoder.describe(),
            fix="restore the folder from a copy",
        )
    autoencoder = load_autoencoder(str(folder / AUTOENCODER))
    if not autoencoder.identity.same_as(description.autoencoder):
        raise CheckpointError(
            f"{folder / AUTOENCODER} is {autoencoder.identity.describe()}, and the model was trained on latents of "
            f"{description.autoencoder.describe()}",
            wanted="the autoencoder that it was trained with",
            fix="restore the folder from a copy",
        )
    model = NiT.from_pretrained(folder, attention=attention)
    make: Any = kind
    try:
        return make(
            model.to(device, dtype),
            autoencoder.to(device),
            LabelTable(labels),
            description.scaling,
            path=description.path,
            trained_side=description.trained_side,
            name=description.name,
            defaults=description.defaults,
        )
    except ConfigError as error:
        raise CheckpointError(
            f"the files in {folder} do not belong together: {error.got}",
            wanted=error.wanted,
            fix="restore the folder from a copy",
        ) from error


def _model_folder(folder: Path) -> Path:
    """The folder itself, or the model inside a training run's."""
    if (folder / PIPELINE).is_file():
        return folder
    if (folder / "model" / PIPELINE).is_file():
        return folder / "model"
    if str(folder) in hub.built_in():
        raise CheckpointError(
            f"{folder} in this folder holds no pipeline, and hides the model {folder} in the box",
            wanted="a pipeline's folder, or no path of that name",
            fix="rename it, or run in another folder",
        )
    unfinished = (folder / "checkpoints").is_dir() or (folder / "metrics.jsonl").is_file()
    raise CheckpointError(
        f"{folder} holds no pipeline: it has no {PIPELINE}"
        + (", and this run has not saved yet" if unfinished else ""),
        wanted="a pipeline's folder, or a training run that has saved",
        fix="let the run reach its first checkpoint" if unfinished else "check the path",
    )


def _read_description(folder: Path) -> tuple[PipelineFile, tuple[str, ...]]:
    try:
        data = read_json(folder / PIPELINE)
        if not isinstance(data, dict) or data.get("format_version") != FORMAT_VERSION:
            raise CheckpointError(
                f"{folder / PIPELINE} is not of format version {FORMAT_VERSION}",
                wanted=f"version {FORMAT_VERSION}",
                fix="use the version of anyres that wrote it, or a newer one",
            )
        labels = read_json(folder / LABELS)
        if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
            raise ConfigError(f"{folder / LABELS} is not a list of names", wanted="a JSON list", fix="restore it")
        return from_dict(PipelineFile, data, where=str(folder / PIPELINE)), tuple(labels)
    except AnyResError as error:
        raise CheckpointError(error.got, wanted=error.wanted, fix=error.fix) from error


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ConfigError(f"got dtype {name!r}", wanted=f"auto, {', '.join(known)}, {FLOAT8}", fix="use 'auto'")
    return known[name]
