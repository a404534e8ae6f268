"""The training run, on one screen."""

import logging
import signal
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import FrameType

import numpy as np

from ..devices import pick_device
from ..errors import DataError
from ..latents.format import LatentDataset
from ..packing.loader import PackLoader
from ..packing.pack import Pack
from ..progress import progress
from . import checkpoint
from .config import TrainConfig
from .folder import open_run
from .graphs import records
from .losses import DrawnPack, draw
from .record import Guard, Recorder
from .state import Progress, TrainState
from .step import backward, update

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """How a run ended.

    Attributes:
        folder: where it is.
        progress: how far it came.
        signal: the number of the signal that stopped it early, or None.
        shrunk: images that were longer than a pack and were shrunk, as the recipe allowed.
    """

    folder: Path
    progress: Progress
    signal: int | None
    shrunk: int


def train(config: TrainConfig, data: Path, out: Path, *, device: str = "auto") -> RunReport:
    """Train, or continue, the run in `out` on the dataset in `data`.

    Args:
        config: the whole configuration.
        data: a folder that `anyres prepare` wrote.
        out: the run's folder; an existing run is continued from its newest checkpoint.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        CheckpointError: the run in `out` has another architecture, autoencoder or labels.
        DataError: the data cannot be read or do not fit the configuration, or the disk refuses.
        NonFiniteError: the loss or the gradient was not finite; the state before that step is saved.
    """
    place = pick_device(device)
    dataset = LatentDataset.open(data)
    loader, held_out = loaders(dataset, config, one_shape=records(config, place))
    folder = open_run(out, config, dataset, place)
    state = TrainState.create(config, place)
    resumed = checkpoint.restore(folder.checkpoints, state)
    if resumed is not None:
        logger.info("continuing from %s", resumed)
    guard = Guard(folder, state, config)
    with closing(Recorder(folder, config, dataset, state, held_out)) as recorder:
        stopped = run(config, state, loader, guard, recorder)
    return RunReport(folder=out, progress=state.progress, signal=stopped, shrunk=loader.shrunk)


def run(config: TrainConfig, state: TrainState, loader: PackLoader, guard: Guard, recorder: Recorder) -> int | None:
    """Every step from the state's to the last; the signal's number if one asked to stop."""
    with (
        stop_signals() as received,
        progress("train", config.steps, "step", done=state.progress.step) as bar,
        closing(drawn_packs(config, state, loader)) as packs_of_run,
    ):
        while state.progress.step < config.steps and not received:
            packs = list(islice(packs_of_run, config.packs_per_step))
            loss = backward(state, packs, config)
            guard.check()  # the step before, which the device has finished by now
            outcome = update(state, loss, config)
            guard.watch(outcome)
            state.progress = advanced(state.progress, packs, loader)
            bar.advance(1, **recorder.after_step(packs, outcome, guard))
        guard.check()
        recorder.finish()
    return received[0] if received else None


def drawn_packs(config: TrainConfig, state: TrainState, loader: PackLoader) -> Generator[DrawnPack, None, None]:
    """The run's packs from the state's position on, with their randomness addressed by (seed, step, pack)."""
    first, pin = state.progress.step, state.model.device.type == "cuda"

    def finish(pack: Pack, number: int) -> DrawnPack:
        step, of_step = divmod(number, config.packs_per_step)
        drawn = draw(pack, config, config.seed, first + step, of_step, dropout=config.label_dropout)
        if config.teacher is not None and config.teacher.applies(first + step):
            drawn = replace(drawn, teacher=loader.features(pack))
        return drawn.pin_memory() if pin else drawn

    return loader.stream(state.progress.position, finish)


def advanced(before: Progress, packs: list[DrawnPack], loader: PackLoader) -> Progress:
    """The progress after one more step on these packs."""
    return replace(
        before,
        step=before.step + 1,
        images=before.images + sum(pack.layout.images for pack in packs),
        tokens=before.tokens + sum(pack.layout.tokens for pack in packs),
        position=loader.advance(before.position, len(packs)),
    )


def loaders(
    dataset: LatentDataset, config: TrainConfig, *, one_shape: bool = False
) -> tuple[PackLoader, PackLoader | None]:
    """The packs to train on, and those of the held-out images, if any.

    Args:
        dataset: the latents.
        config: the run's.
        one_shape: pad every pack to one static shape, as a recorded step wants it.

    Raises:
        DataError: the model does not fit the data, or an image does not fit a pack.
    """
    _check_fit(dataset, config)
    held = dataset.held_out(config.held_out.share)
    if held.all():
        raise DataError(
            f"all {len(dataset)} rows of {dataset.path} fall into the held-out share {config.held_out.share}",
            wanted="images left to train on",
            fix="prepare more images, or set --held-out.share 0",
        )

    def load(rows: np.ndarray, *, flip: bool, one_shape: bool) -> PackLoader:
        return PackLoader(
            dataset,
            rows=np.flatnonzero(rows),
            patch=config.model.patch_size,
            packing=config.packing,
            seed=config.seed,
            flip=flip,
            one_shape=one_shape,
            features=dataset.features() if config.teacher is not None else None,
        )

    training = load(~held, flip=config.flip, one_shape=one_shape)
    # images as they are, by the averaged weights, whose passes are not recorded
    measured = held & ~dataset.reshaped
    return training, load(measured, flip=False, one_shape=False) if measured.any() else None


def _check_fit(dataset: LatentDataset, config: TrainConfig) -> None:
    info = dataset.info
    for what, ours, theirs in (
        ("channels", config.model.channels, info.autoencoder.channels),
        ("classes", config.model.num_classes, len(info.labels)),
    ):
        if ours != theirs:
            raise DataError(
                f"the model has {ours} {what}, and the dataset {dataset.path} has {theirs}",
                wanted="a model made for this dataset",
                fix="drop the option that changed it: recipes take both from the dataset",
            )
    if config.teacher is not None and config.model.projection is not None:
        seen, wanted = dataset.features().info, (config.model.projection.dim, config.model.patch_size)
        if (seen.dim, seen.cells) != wanted:
            raise DataError(
                f"the model aligns tokens of {wanted[1]}x{wanted[1]} cells with features of {wanted[0]} channels, and "
                f"the dataset {dataset.path} has those of {seen.describe()}",
                wanted="one feature a token",
                fix=f"prepare the images with --teacher and --multiple-of-cells {wanted[1]}, or train with --no-repa",
            )


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that the run can stop after a whole step; a second SIGINT stops at once."""
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
