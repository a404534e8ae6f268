"""A pipeline's folder: the model's files, `pipeline.json`, `labels.json` and `autoencoder/`."""

import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from .. import hub
from ..config import from_dict, to_dict
from ..devices import pick_device
from ..errors import AnyResError, CheckpointError, ConfigError, DataError
from ..files import make_folder, read_json, replacing, write_json
from ..flow.path import PathName
from ..flow.time import TimeShift
from ..latents.autoencoder import AUTOENCODER, Autoencoder, AutoencoderIdentity, LatentScaling, fingerprint
from ..latents.loading import has_autoencoder, load_autoencoder
from ..model import lora
from ..model.nit import NiT
from ..model.weights import CONFIG, STEM
from ..weightfiles import patterns
from .request import LabelTable, SamplingSettings

PIPELINE, LABELS = "pipeline.json", "labels.json"
OUR_FILES = (PIPELINE, LABELS, AUTOENCODER, CONFIG, *patterns(STEM), lora.CONFIG, *patterns(lora.STEM))
FORMAT_VERSION = 1
FLOAT8 = "float8"

P = TypeVar("P")


@dataclass(frozen=True, kw_only=True)
class PipelineFile:
    """pipeline.json.

    Attributes:
        name: how metadata names the model.
        path: the path that the network was trained on.
        time_shift: how the times that it was trained at moved with an image's size.
        trained_side: longest side in tokens that training has seen.
        scaling: from the network's latents to the autoencoder's.
        autoencoder: which one it needs.
        defaults: how to sample where a call does not say.
        base: the fingerprint of the base model's network, where the folder holds an adapter of it.
        format_version: of this file.
    """

    name: str
    path: PathName
    trained_side: int
    scaling: LatentScaling
    autoencoder: AutoencoderIdentity
    defaults: SamplingSettings
    time_shift: TimeShift = field(default_factory=TimeShift)
    base: str | None = None
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, eq=False, kw_only=True)
class Adapter:
    """Changes of a base model, in the place of a pipeline's network.

    Attributes:
        network: with the changes attached.
        base: the base's name, as `hub.lasting` gives it.
        revision: likewise.
        fingerprint: of the base's network.
    """

    network: NiT
    base: str
    revision: str | None
    fingerprint: str


def save(
    pipe: Any,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str | None = None,
    adapter: Adapter | None = None,
) -> None:
    """Write a pipeline's folder, whole or not at all; files that are not a pipeline's are kept.

    Args:
        pipe: the pipeline.
        folder: where to.
        dtype: see `Pipeline.save_pretrained`.
        max_shard_size: likewise.
        adapter: is written in the place of the network, and of the autoencoder where the base has it.

    Raises:
        DataError: the folder holds something else than a pipeline, or cannot be written to.
    """
    folder = folder.resolve()  # a link would be replaced, not what it points to
    foreign = _foreign(folder)
    make_folder(folder.parent)
    with replacing(folder) as staging:
        staging.mkdir()
        if adapter is None:
            pipe.model.save_pretrained(staging, dtype=dtype, max_shard_size=max_shard_size)
        else:
            lora.save_adapter(adapter.network, staging, base=adapter.base, revision=adapter.revision)
        if adapter is None or not has_autoencoder(hub.resolve(adapter.base, revision=adapter.revision)):
            autoencoder = pipe.autoencoder.save(staging / AUTOENCODER, dtype=dtype, max_shard_size=max_shard_size)
        else:
            autoencoder = pipe.autoencoder.identity
        if Path(autoencoder.name).is_absolute():  # where it was loaded from means nothing to others
            autoencoder = replace(autoencoder, name=AUTOENCODER)
        write_json(staging / LABELS, list(pipe.labels.names))
        description = PipelineFile(
            name=pipe.name,
            path=pipe.path,
            time_shift=pipe.time_shift,
            trained_side=pipe.trained_side,
            scaling=pipe.scaling,
            autoencoder=autoencoder,
            defaults=pipe.defaults,
            base=adapter and adapter.fingerprint,
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
        pipe: Any = _load(kind, model_folder(folder), place, network_dtype, attention)
    if dtype == FLOAT8:
        pipe.model.use_float8(training=False)
    return pipe


def _load(kind: type[P], folder: Path, device: torch.device, dtype: torch.dtype, attention: str) -> P:
    description, labels = read_description(folder)
    autoencoder = _autoencoder(folder, description)
    if not autoencoder.identity.same_as(description.autoencoder):
        raise CheckpointError(
            f"the autoencoder of {folder} is {autoencoder.identity.describe()}, and the model was trained on latents "
            f"of {description.autoencoder.describe()}",
            wanted="the autoencoder that it was trained with",
            fix="restore the folder from a copy",
        )
    model = load_network(folder, attention=attention)
    make: Any = kind
    try:
        return make(
            model.to(device, dtype),
            autoencoder.to(device),
            LabelTable(labels),
            description.scaling,
            path=description.path,
            time_shift=description.time_shift,
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


def load_network(folder: Path, *, attention: str = "auto") -> NiT:
    """The network of a pipeline's folder, on the CPU; that of an adapter's folder is its base's, changed.

    Raises:
        CheckpointError: files are missing, damaged, or do not belong together.
    """
    if not (folder / lora.CONFIG).is_file():
        return NiT.from_pretrained(folder, attention=attention)
    description, labels = read_description(folder)
    name, revision = _base_of(folder)
    found = hub.resolve(name, revision=revision)
    base = NiT.from_pretrained(found) if is_bare(found) else load_network(model_folder(found), attention=attention)
    if description.base not in (None, fingerprint(base.state_dict())):
        raise CheckpointError(
            f"the model {name} is not the one that the adapter in {folder} changes: its weights are others",
            wanted=f"the weights of fingerprint {description.base}",
            fix="restore the base model",
        )
    return lora.load_adapter(folder, base.float(), len(labels))


def is_bare(folder: Path) -> bool:
    """Whether a folder holds a network alone, such as an imported one: no labels, no autoencoder."""
    return (folder / CONFIG).is_file() and not (folder / PIPELINE).is_file() and not (folder / "model").is_dir()


def _autoencoder(folder: Path, description: PipelineFile) -> Autoencoder:
    """A pipeline's own, or that of an adapter's base."""
    if (folder / AUTOENCODER).is_dir():  # a path that does not exist would be looked up as a name
        return load_autoencoder(str(folder / AUTOENCODER))
    if (folder / lora.CONFIG).is_file():
        name, revision = _base_of(folder)
        return load_autoencoder(name, revision=revision)
    raise CheckpointError(
        f"{folder} lacks its {AUTOENCODER} folder",
        wanted=description.autoencoder.describe(),
        fix="restore the folder from a copy",
    )


def _base_of(folder: Path) -> tuple[str, str | None]:
    """Name and revision of an adapter's base model."""
    try:
        config = read_json(folder / lora.CONFIG)
    except DataError as error:
        raise CheckpointError(error.got, wanted=error.wanted, fix=error.fix) from error
    name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(name, str):
        raise CheckpointError(
            f"{folder / lora.CONFIG} does not name a base model",
            wanted='"base_model_name_or_path": a folder, a model in the box or a hub id',
            fix="write it there",
        )
    return name, config.get("revision")


def model_folder(folder: Path) -> Path:
    """The folder itself, or the model inside a training run's.

    Raises:
        CheckpointError: there is none.
    """
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


def read_description(folder: Path) -> tuple[PipelineFile, tuple[str, ...]]:
    """What a pipeline's folder says of itself, and its labels.

    Raises:
        CheckpointError: the files are missing, damaged or of another version.
    """
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
