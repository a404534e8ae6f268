"""Checkpoints: whole or absent, pruned, and resumed exactly.

`checkpoints/step-N/` holds the state in torch.distributed.checkpoint's format and `meta.json`, written last; the
folder appears under its name by a rename.
"""

import logging
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from ..config import from_dict, to_dict
from ..errors import AnyResError, CheckpointError
from ..files import make_folder, read_json, remove_leftovers, replacing, write_json, writing
from .state import Progress, TrainState

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1


def save(folder: Path, state: TrainState, *, keep: int) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`.

    Args:
        folder: the run's `checkpoints/`.
        state: what to write.
        keep: checkpoints that stay.

    Raises:
        DataError: the disk is full or refuses; earlier checkpoints are untouched.
    """
    make_folder(folder)
    target = folder / f"step-{state.progress.step}"
    with replacing(target) as staging, _quiet():
        _write(state, staging)
        write_json(staging / "meta.json", {"format_version": FORMAT_VERSION, "progress": to_dict(state.progress)})
    for old in saved(folder)[:-keep]:
        with writing(old):
            shutil.rmtree(old)
    return target


def saved(folder: Path) -> list[Path]:
    """The whole checkpoints in a run's `checkpoints/`, oldest first."""
    found = [
        (int(match[1]), path)
        for path in folder.glob("step-*")
        if (match := re.fullmatch(r"step-(\d+)", path.name)) and (path / "meta.json").is_file()
    ]
    return [path for _, path in sorted(found)]


def restore(folder: Path, state: TrainState) -> Path | None:
    """Load the newest checkpoint that can be read into `state`; returns it, or None where there is none.

    A damaged checkpoint is passed over with a warning.

    Raises:
        CheckpointError: there are checkpoints, but none can be read.
    """
    if folder.is_dir():
        remove_leftovers(folder)
    candidates = saved(folder)
    for path in reversed(candidates):
        try:
            _load(path, state)
        except CheckpointError as error:
            logger.warning("%s", error.got)
            continue
        return path
    if candidates:
        raise CheckpointError(
            f"none of the {len(candidates)} checkpoints in {folder} can be read",
            wanted="a whole checkpoint of this architecture",
            fix="restore the folder from a copy, or start a new run in another folder",
        )
    return None


def _write(state: TrainState, folder: Path) -> None:
    failures: list[BaseException] = []
    try:
        state_dict_saver.save(_tensors(state), checkpoint_id=folder, no_dist=True)
    except CheckpointException as error:  # no Exception; it holds what went wrong, by rank
        failures = [failure for failure, _ in error.failures.values()]
    if failures:
        raise failures[0]  # out here, or it would forget its own cause


def _load(path: Path, state: TrainState) -> None:
    tensors = _tensors(state)
    try:
        meta = read_json(path / "meta.json")
        _check_version(meta, path)
        progress = from_dict(Progress, meta["progress"], where=str(path / "meta.json"))
        with _quiet():
            state_dict_loader.load(tensors, checkpoint_id=path, no_dist=True)
    except AnyResError as error:
        raise CheckpointError(error.got, wanted=error.wanted, fix=error.fix) from error
    # torch reports damage by many types, one of them no Exception: any of them means that this one is lost
    except (Exception, CheckpointException) as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be read: {_last_line(error)}",
            wanted="a whole checkpoint",
            fix="use an earlier one",
        ) from error
    state.model.load_state_dict(tensors["model"])
    state.average.load_state_dict(tensors["average"])
    set_optimizer_state_dict(state.model, state.optimizer, tensors["optimizer"])
    state.update.refresh()
    state.progress = progress


def _last_line(error: BaseException) -> str:
    """What went wrong; torch puts a traceback before it."""
    return (str(error).strip() or repr(error)).splitlines()[-1]


def _check_version(meta: dict[str, Any], path: Path) -> None:
    if meta.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {path} has format version {meta.get('format_version')}",
            wanted=f"version {FORMAT_VERSION}",
            fix="resume with the version of anyres that wrote it",
        )


def _tensors(state: TrainState) -> dict[str, Any]:
    return {
        "model": state.model.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": get_optimizer_state_dict(state.model, state.optimizer),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warning that one process saves without a process group, which is what is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed.*", category=UserWarning)
        yield
