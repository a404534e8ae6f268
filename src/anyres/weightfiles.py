"""Weights on disk: safetensors, in one file or in shards with an index; nothing pickled.

The names are Hugging Face's: STEM.safetensors, or STEM-00001-of-00003.safetensors and STEM.safetensors.index.json.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from .config import require
from .errors import CheckpointError, ConfigError, DataError, NonFiniteError
from .files import make_folder, make_shared, read_json, writing
from .shapes import Tensor

MAX_SHARD_SIZE = "5GB"  # as huggingface_hub has it


def rounded(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors in another dtype; None leaves them as they are.

    Raises:
        ConfigError: the dtype cannot hold weights.
        NonFiniteError: a finite weight is too large for the dtype.
    """
    if dtype is None:
        return dict(state)
    require(dtype.is_floating_point, f"weights in {dtype}", "a floating-point dtype", "use torch.float16")
    changed = {name: value.to(dtype) for name, value in state.items()}
    for name, value in changed.items():
        if not torch.equal(value.isfinite(), state[name].isfinite()):
            raise NonFiniteError(
                f"{name} reaches {float(state[name].abs().max()):.3g}, which {dtype} cannot hold",
                wanted=f"weights of at most {torch.finfo(dtype).max:.3g}",
                fix="save in torch.bfloat16, which has the range of float32",
            )
    return changed


def write_weights(
    state: Mapping[str, Tensor], folder: Path, stem: str, *, max_shard_size: int | str | None = None
) -> None:
    """Write tensors into a folder, each file whole or not at all; no file of an earlier writing is left.

    Args:
        state: the tensors, on any device.
        folder: made if missing.
        stem: how the files' names begin.
        max_shard_size: of a file, in bytes or such as "15MB"; a larger tensor has a file of its own.

    Raises:
        ConfigError: the size cannot be read.
        DataError: the folder cannot be written to.
    """
    from huggingface_hub import save_torch_state_dict

    make_folder(folder)
    on_host = {name: value.detach().cpu() for name, value in state.items()}
    index = _index_name(stem)
    with writing(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".tmp") as staging:
        try:
            save_torch_state_dict(
                on_host,
                staging,
                filename_pattern=f"{stem}{{suffix}}.safetensors",
                max_shard_size=MAX_SHARD_SIZE if max_shard_size is None else max_shard_size,
                metadata={"format": "pt"},
            )
        except ValueError as error:  # of all arguments, only the size is our caller's
            raise ConfigError(
                f"got a shard size of {max_shard_size!r}", wanted="bytes, or such as '15MB'", fix="write it so"
            ) from error
        fresh = sorted(Path(staging).iterdir(), key=lambda file: file.name == index)  # the index after its shards
        for file in fresh:
            make_shared(file)
            file.replace(folder / file.name)
        old = {path for pattern in patterns(stem) for path in folder.glob(pattern)}
        for stale in old - {folder / file.name for file in fresh}:
            stale.unlink()


def patterns(stem: str) -> tuple[str, ...]:
    """What the files of weights may be called."""
    return f"{stem}.safetensors", _shards(stem), _index_name(stem)


def read_weights(folder: Path, stem: str) -> dict[str, Tensor]:
    """The tensors in a folder, in one file or in shards with an index.

    Raises:
        CheckpointError: a file is missing or damaged, and is named.
    """
    state: dict[str, Tensor] = {}
    for path in _files(folder, stem):
        state |= read_safetensors(path)
    return state


def check_weights(folder: Path, stem: str) -> None:
    """See that every file is there and as long as it says, for weights that a library reads.

    Raises:
        CheckpointError: a file is missing or damaged, and is named.
    """
    from safetensors import safe_open

    for path in _files(folder, stem):
        with _damage(path), safe_open(path, framework="pt"):
            pass


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    from safetensors.torch import load_file

    with _damage(path):
        return load_file(path)


def _shards(stem: str) -> str:
    return f"{stem}-?????-of-?????.safetensors"


def _index_name(stem: str) -> str:
    return f"{stem}.safetensors.index.json"


def _files(folder: Path, stem: str) -> list[Path]:
    """The one file, or all that the index names."""
    path = folder / _index_name(stem)
    whole = folder / f"{stem}.safetensors"
    if not path.is_file():
        if not whole.is_file() and any(folder.glob(_shards(stem))):
            raise CheckpointError(
                f"{path} does not exist, which says what the shards beside it hold",
                wanted="the index of the shards",
                fix="restore the folder from a copy",
            )
        return [whole]
    try:
        index = read_json(path)
    except DataError as error:
        raise CheckpointError(error.got, wanted=error.wanted, fix=error.fix) from error
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise CheckpointError(
            f"{path} does not say which file holds which weight",
            wanted='"weight_map": an object, from names of weights to names of files',
            fix="restore the folder from a copy",
        )
    return [folder / name for name in sorted(set(places.values()))]


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Say of a file that cannot be read which it is."""
    from safetensors import SafetensorError

    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist",
            wanted="a safetensors file there (pickled weights are never read)",
            fix="check the path, or fetch it again",
        )
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}",
            wanted="a whole safetensors file",
            fix="fetch or copy it again; a truncated copy is the usual cause",
        ) from error
