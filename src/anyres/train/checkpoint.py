"""Checkpoints: whole or absent, pruned, written beside the training, and resumed exactly.

`checkpoints/step-N/` holds the state in torch.distributed.checkpoint's format, a file or more from each process, and
`meta.json`, written last; the folder appears under its name by a rename. It can be resumed by any number of processes.
"""

import copy
import logging
import re
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from ..config import from_dict, to_dict
from ..errors import AnyResError, CheckpointError
from ..files import make_folder, read_json, remove_leftovers, replacing, write_json, writing
from ..ranks import is_lost_connection
from .distributed import Team, local
from .state import Progress, TrainState

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
SPARE = 2**31  # bytes that a copy on a GPU leaves free


class Checkpoints:
    """A run's `checkpoints/`, written by a thread from a copy of the state, while the training goes on.

    Args:
        folder: `checkpoints/`.
        team: the processes, each of which writes its part.
        keep: checkpoints that stay.
    """

    def __init__(self, folder: Path, team: Team, keep: int) -> None:
        self._folder, self._team, self._keep = folder, team, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, state: TrainState) -> Path:
        """Begin to write a checkpoint; when it is whole, all but the newest `keep` are removed.

        Returns:
            Where it will be.

        Raises:
            DataError: the one before could not be written: the disk is full or refuses.
        """
        self.settle()
        target = self._folder / f"step-{state.progress.step}"
        self._writing = self._thread.submit(self._write, target, _copied(state), state.progress)
        return target

    def settle(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            DataError: the disk is full or refuses; earlier checkpoints are untouched.
        """
        writing_now, self._writing = self._writing, None
        if writing_now is not None:
            writing_now.result()

    def failed(self) -> bool:
        """Whether it is known that the last checkpoint could not be written; `settle` says why."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def close(self) -> None:
        """End the thread, after what it writes."""
        self._thread.shutdown()

    def _write(self, target: Path, copied: "_Copied", progress: Progress) -> None:
        if not self._team.leads:
            with writing(target):
                _write_tensors(copied, self._team)
            return
        make_folder(self._folder)
        with replacing(target) as staging:
            _write_tensors(copied, self._team, staging)
            write_json(staging / "meta.json", {"format_version": FORMAT_VERSION, "progress": to_dict(progress)})
        for old in saved(self._folder)[: -self._keep]:
            with writing(old):
                shutil.rmtree(old.rename(old.with_name(f".{old.name}.tmp")))  # at no instant is it half there


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

    A damaged checkpoint is passed over with a warning, by all processes if it is for one of them.

    Raises:
        CheckpointError: there are checkpoints, but none can be read.
    """
    if state.team.leads and folder.is_dir():
        remove_leftovers(folder)
    state.team.wait()
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


def _write_tensors(copied: "_Copied", team: Team, folder: Path | None = None) -> None:
    """Write each process's part into the folder, which the leading process names."""
    folder = team.ranks.told(folder, team.saving)
    failures: list[BaseException] = []
    try:
        with _quiet(), copied.beside:
            state_dict_saver.save(
                copied.tensors, checkpoint_id=folder, process_group=team.saving, no_dist=team.size == 1
            )
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
            team = state.team
            state_dict_loader.load(tensors, checkpoint_id=path, process_group=team.control, no_dist=team.size == 1)
    except AnyResError as error:
        raise CheckpointError(error.got, wanted=error.wanted, fix=error.fix) from error
    # torch reports damage by many types, one of them no Exception: any of them means that this one is lost
    except (Exception, CheckpointException) as error:
        if is_lost_connection(error):
            raise
        raise CheckpointError(
            f"checkpoint {path} cannot be read: {_last_line(error)}",
            wanted="a whole checkpoint",
            fix="use an earlier one",
        ) from error
    for name, module in (("model", state.model), ("average", state.average)):
        module.load_state_dict(module.state_dict() | tensors[name])
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


class _Copied(NamedTuple):
    """A copy of a state's tensors, and the context in which they are to be read while the training goes on."""

    tensors: Any
    beside: AbstractContextManager[object]


def _copied(state: TrainState) -> _Copied:
    """The training waits for it. So it is made on a GPU where there is room, and goes to the host as it is written."""
    tensors, device = _tensors(state), state.model.device
    if device.type == "cuda":
        needed = 4 * sum(local(weight).nbytes for weight in state.model.parameters())  # average, two moments
        if torch.cuda.mem_get_info(device)[0] > needed + SPARE:
            tensors = copy.deepcopy(tensors)
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))
            return _Copied(tensors, torch.cuda.stream(stream))
    # one for each copy: torch 2.10 and 2.11 close a stager after its first
    stager = DefaultStager(StagingOptions(False, False, False, False))
    staged = stager.stage(tensors)
    stager.close()
    return _Copied(staged, nullcontext())


def _tensors(state: TrainState) -> dict[str, Any]:
    # what is not trained is the base's, which is at hand
    frozen = {name for name, weight in state.model.named_parameters() if not weight.requires_grad}
    model, average = (
        {name: value for name, value in module.state_dict().items() if name not in frozen}
        for module in (state.model, state.average)
    )
    return {
        "model": model,
        "average": average,
        "optimizer": get_optimizer_state_dict(state.model, state.optimizer),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warning that one process saves without a process group, which is what is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed.*", category=UserWarning)
        yield
