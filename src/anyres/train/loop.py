"""The training run, on one screen."""

import logging
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from ..devices import pick_device
from ..errors import DataError
from ..latents.features import TeacherInfo
from ..latents.format import LatentDataset
from ..model.elementwise import pick_kernels
from ..networks.features import MapNetwork
from ..packing.dealing import Share
from ..packing.draws import DrawsConfig
from ..packing.fixed import fixed_packs
from ..packing.loader import PackLoader
from ..packing.pack import Pack
from ..packing.plan import PackingConfig
from ..progress import progress
from ..ranks import Ranks
from . import checkpoint
from .checkpoint import Checkpoints
from .config import TrainConfig
from .distributed import team_of
from .folder import RunFolder, open_run
from .graphs import records
from .losses import DrawnPack, draw
from .overfitting import Measured
from .record import Guard, Recorder
from .state import Progress, TrainState
from .step import backward, update
from .stopping import GO_ON, Stopper, stop_signals
from .teacher import Batch, SeeingTeacher, seeing_teacher

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """How a run ended.

    Attributes:
        folder: where it is.
        progress: how far it came.
        stopped: why it ended early: the number of a signal, `stopping.TIME_IS_UP`, or None.
        shrunk: images that were longer than a pack and were shrunk, as the recipe allowed.
        left_out: rows of variants that the recipe never draws.
        best: the measurement with the lowest held-out loss, where the run overfits since.
        leads: whether this process speaks for those that train together.
    """

    folder: Path
    progress: Progress
    stopped: int | None
    shrunk: int
    left_out: int = 0
    best: Measured | None = None
    leads: bool = True


def train(
    config: TrainConfig,
    data: Path,
    out: Path,
    *,
    device: str = "auto",
    time_limit: float | None = None,
    teacher: MapNetwork | None = None,
) -> RunReport:
    """Train, or continue, the run in `out` on the dataset in `data`; one of several processes where torchrun says so.

    Args:
        config: the whole configuration.
        data: a folder that `anyres prepare` wrote.
        out: the run's folder; an existing run is continued from its newest checkpoint.
        device: "auto", "cpu", "cuda" or "mps".
        time_limit: seconds after which the run saves and ends, or None.
        teacher: a network of your own that sees the images in `config.teacher.images`, in the place of the named one.

    Raises:
        BackendError: the device is not there, or another process has gone.
        CheckpointError: the run in `out` has another architecture, autoencoder or labels.
        ConfigError: the packs of a step cannot be shared equally among the processes.
        DataError: the data cannot be read or do not fit the configuration, or the disk refuses.
        NonFiniteError: the loss or the gradient was not finite; the state before that step is saved.
    """
    deadline = time.monotonic() + time_limit if time_limit is not None else None
    ranks = Ranks.from_environment()
    place = pick_device(ranks.device(device))
    dataset = LatentDataset.open(data)
    sees = seeing_teacher(config, dataset, place, teacher)
    info = dataset.info.teacher if sees is None else sees.info
    loader, held_out = loaders(dataset, config, one_shape=records(config, place), teacher=info)
    with team_of(config, ranks, place) as team:
        folder = open_run(out, config, dataset, place, info) if team.leads else RunFolder(out)
        state = TrainState.create(config, place, team)
        resumed = checkpoint.restore(folder.checkpoints, state)
        if resumed is not None:
            logger.info("continuing from %s", resumed)
        with (
            closing(Checkpoints(folder.checkpoints, team, config.keep_checkpoints)) as checkpoints,
            closing(Recorder(folder, checkpoints, config, dataset, state, held_out)) as recorder,
            stop_signals() as received,
        ):
            stopper = Stopper(team, received, deadline, checkpoints.failed)
            stopped = run(config, state, loader, Guard(checkpoints, state), recorder, stopper, sees)
        state.release()
    return RunReport(
        folder=out,
        progress=state.progress,
        stopped=stopped,
        shrunk=loader.shrunk,
        left_out=loader.left_out,
        best=recorder.best,
        leads=ranks.rank == 0,
    )


def run(
    config: TrainConfig,
    state: TrainState,
    loader: PackLoader,
    guard: Guard,
    recorder: Recorder,
    stopper: Stopper,
    sees: SeeingTeacher | None = None,
) -> int | None:
    """Every step from the state's to the last; why it stopped if it did before."""
    stopped = GO_ON
    with (
        progress("train", config.steps, "step", done=state.progress.step, shown=state.team.leads) as bar,
        closing(drawn_packs(config, state, loader, sees)) as packs_of_run,
    ):
        while state.progress.step < config.steps and not (stopped := stopper.reason()):
            lengths = loader.lengths_of(state.progress.position, config.packs_per_step)
            packs = list(islice(packs_of_run, config.packs_per_step // state.team.size))
            loss = backward(state, packs, config, lengths=lengths)
            guard.check()  # the step before, which the device has finished by now
            outcome = update(state, loss, config)
            guard.watch(outcome)
            state.progress = advanced(state.progress, lengths, config, loader)
            bar.advance(1, **recorder.after_step(lengths, outcome, guard))
        stopper.settle()
        guard.check()
        recorder.finish()
    return stopped or None


def drawn_packs(
    config: TrainConfig, state: TrainState, loader: PackLoader, sees: SeeingTeacher | None = None
) -> Generator[DrawnPack, None, None]:
    """The run's packs from the state's position on, with their randomness addressed by (seed, step, pack).

    A teacher's features come from the loader, or from a teacher that sees pictures, which works when a pack is taken.
    """
    model, first = state.model, state.progress.step
    pin, on_device = model.device.type == "cuda", pick_kernels(model.kernels, model.device) == "triton"

    def finish(pack: Pack, number: int) -> tuple[DrawnPack, list[Batch]]:
        step, of_step = divmod(number, config.packs_per_step)
        address = config.seed, first + step, of_step
        drawn = draw(pack, config, *address, dropout=config.label_dropout, on_device=on_device)
        aligns = config.teacher is not None and config.teacher.applies(first + step)
        if aligns and sees is None:
            drawn = replace(drawn, teacher=loader.features(pack))
        seen = sees.look(pack) if aligns and sees is not None else []
        return drawn.pin_memory() if pin else drawn, seen

    ranks = state.team.ranks
    cost = config.model.image_flops
    share = Share(packs_per_step=config.packs_per_step, rank=ranks.rank, ranks=ranks.world, cost=cost)
    with closing(loader.stream(state.progress.position, finish, share=share)) as stream:
        for drawn, seen in stream:
            yield replace(drawn, teacher=sees.features(drawn.layout, seen)) if sees is not None and seen else drawn


def advanced(before: Progress, lengths: np.ndarray, config: TrainConfig, loader: PackLoader) -> Progress:
    """The progress after one more step, on images of these lengths."""
    return replace(
        before,
        step=before.step + 1,
        images=before.images + len(lengths),
        tokens=before.tokens + int(lengths.sum()),
        position=loader.advance(before.position, config.packs_per_step),
    )


def loaders(
    dataset: LatentDataset, config: TrainConfig, *, one_shape: bool = False, teacher: TeacherInfo | None = None
) -> tuple[PackLoader, PackLoader | None]:
    """The packs to train on, and those of the held-out images, if any.

    Args:
        dataset: the latents.
        config: the run's.
        one_shape: pad every pack to one static shape, as a recorded step wants it.
        teacher: which features are aligned with, where they are not the dataset's.

    Raises:
        DataError: the model does not fit the data, or an image does not fit a pack.
    """
    _check_fit(dataset, config, teacher)
    stored = config.teacher is not None and config.teacher.images is None
    held = dataset.held_out(config.held_out.share)
    if held.all():
        raise DataError(
            f"all {len(dataset)} rows of {dataset.path} fall into the held-out share {config.held_out.share}",
            wanted="images left to train on",
            fix="prepare more images, or set --held-out.share 0",
        )

    def load(chosen: np.ndarray, packing: PackingConfig, *, flip: bool, one_shape: bool) -> PackLoader:
        rows = np.flatnonzero(chosen)
        return PackLoader(
            dataset,
            rows=rows,
            patch=config.model.patch_size,
            packing=packing,
            seed=config.seed,
            flip=flip,
            one_shape=one_shape,
            fixed=fixed_packs(dataset, rows) if config.packing.algorithm == "fixed" else None,
            features=dataset.features() if stored else None,
        )

    training = load(~held, config.packing, flip=config.flip, one_shape=one_shape)
    # images as they are, each once whatever training draws, by the averaged weights, whose passes are not recorded
    measured, once = held & ~dataset.reshaped, replace(config.packing, draws=DrawsConfig())
    return training, load(measured, once, flip=False, one_shape=False) if measured.any() else None


def _check_fit(dataset: LatentDataset, config: TrainConfig, teacher: TeacherInfo | None) -> None:
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
        seen = dataset.features().info if config.teacher.images is None else teacher
        wanted = (config.model.projection.dim, config.model.patch_size)
        if seen is not None and (seen.dim, seen.cells) != wanted:
            whose = f"the dataset {dataset.path} has" if config.teacher.images is None else "the teacher gives"
            raise DataError(
                f"the model aligns tokens of {wanted[1]}x{wanted[1]} cells with features of {wanted[0]} channels, and "
                f"{whose} those of {seen.describe()}",
                wanted="one feature a token",
                fix=f"prepare the images with --teacher and --multiple-of-cells {wanted[1]}, or train with --no-repa",
            )
