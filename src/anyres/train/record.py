"""What a run does beside its steps: metrics, held-out loss, pictures, checkpoints, the watch for non-finite ones."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import NonFiniteError
from ..latents.autoencoder import Autoencoder
from ..latents.format import LatentDataset
from ..packing.loader import PackLoader
from ..sample.pipeline import Pipeline
from .checkpoint import Checkpoints
from .config import TrainConfig
from .folder import RunFolder, device_name
from .groups import GroupSums, group_means
from .held_out import held_out_loss
from .metrics import Metrics, Throughput, peak_flops
from .overfitting import Measured, lowest, overfits, read_history, warning
from .pictures import draw_pictures, export, pipeline_of
from .precision import in_bfloat16
from .state import Progress, TrainState
from .step import StepOutcome
from .tracking import Tracker

logger = logging.getLogger(__name__)


class Guard:
    """Stops the run at a non-finite loss or gradient, with the state before that step saved.

    The verdict stays on the device until `check`, which the loop calls one step late, after it has queued the next
    step's work; the update itself was already withheld on the device.
    """

    def __init__(self, checkpoints: Checkpoints, state: TrainState) -> None:
        self._checkpoints, self._state = checkpoints, state
        self._watched: tuple[StepOutcome, Progress] | None = None

    def watch(self, outcome: StepOutcome) -> None:
        """Remember a step's outcome; call before the progress is advanced."""
        self._watched = outcome, self._state.progress

    def check(self) -> None:
        """Read the verdict on the step last watched.

        Raises:
            NonFiniteError: it was not finite; the state is put back before it and saved.
        """
        watched, self._watched = self._watched, None
        if watched is None or bool(watched[0].finite):
            return
        outcome, before = watched
        self._state.progress = before
        saved = self._checkpoints.save(self._state)
        self._checkpoints.settle()
        raise NonFiniteError(
            f"step {before.step + 1}: loss {float(outcome.loss.total)}, gradient norm {float(outcome.gradient_norm)}",
            wanted="finite numbers",
            fix=f"the state after step {before.step} is in {saved}; "
            "continue it with a lower --optimizer.learning-rate or with --precision float32",
        )


class Recorder:
    """Does what is due after a step. Of several processes the leading one writes; all of them have to be asked.

    Args:
        folder: the run's.
        checkpoints: where to save.
        config: the run's.
        dataset: what it trains on.
        state: the run's, restored already.
        held_out: packs that are never trained on, or None.
    """

    def __init__(
        self,
        folder: RunFolder,
        checkpoints: Checkpoints,
        config: TrainConfig,
        dataset: LatentDataset,
        state: TrainState,
        held_out: PackLoader | None,
    ) -> None:
        self._folder, self._checkpoints, self._config, self._dataset = folder, checkpoints, config, dataset
        self._state, self._held_out = state, held_out
        self._device = state.model.device
        self._metrics = _metrics(folder, config, state) if state.team.leads else None
        peak = peak_flops(device_name(self._device)) if in_bfloat16(config, self._device) else None
        self._throughput = Throughput(peak and peak * state.team.size)
        self._groups: GroupSums | None = None  # of the steps since the last line
        self._figures: dict[str, Any] = {}
        self._history = read_history(folder.metrics, state.progress.step)
        self._warned = overfits(self._history)
        self._training, self._steps = torch.zeros((), device=self._device), 0  # since the last measurement
        self._autoencoder: Autoencoder | None = None
        self._saved_step = state.progress.step  # or there is nothing to save yet

    def after_step(self, lengths: np.ndarray, outcome: StepOutcome, guard: Guard) -> dict[str, Any]:
        """Do what is due; returns the figures to show beside the progress bar.

        Args:
            lengths: tokens of each image of the step.
            outcome: of the step.
            guard: which has been given it.
        """
        config, step = self._config, self._state.progress.step
        self._training += outcome.loss.total
        self._steps += 1
        # the backward pass costs twice the forward
        flops = 3 * config.model.forward_flops(lengths.tolist())
        self._throughput.add(images=len(lengths), tokens=int(lengths.sum()), flops=flops)
        self._groups = outcome.loss.groups + (0 if self._groups is None else self._groups)
        log = step % config.log_every == 0 or step in (1, config.steps)
        held_out = self._held_out is not None and (step % config.held_out.every == 0 or step == config.steps)
        pictures = config.pictures.every > 0 and step % config.pictures.every == 0
        save = step % config.checkpoint_every == 0
        if log or held_out or pictures or save:
            guard.check()
        if log:
            self._log(outcome)
        if held_out or pictures or save:
            self._apart(held_out=held_out, pictures=pictures, save=save)
        return self._figures

    @property
    def best(self) -> Measured | None:
        """The measurement with the lowest held-out loss, where that has risen since: the run overfits."""
        return lowest(self._history) if self._warned else None

    def finish(self) -> None:
        """Save where the last step was not, and export the model."""
        if self._saved_step != self._state.progress.step:
            self._save()
        self._checkpoints.settle()

    def close(self) -> None:
        """Close the metrics' files."""
        if self._metrics is not None:
            self._metrics.close()

    def _log(self, outcome: StepOutcome) -> None:
        groups, self._groups = self._groups, None
        if self._metrics is None or groups is None:
            return
        progress = self._state.progress
        loss = outcome.loss
        values = {
            "loss": float(loss.total),
            "loss_flow": float(loss.flow),
            "loss_direction": float(loss.direction),
            **({"loss_alignment": float(loss.alignment)} if self._aligned(progress.step) else {}),
            "gradient_norm": float(outcome.gradient_norm),
            **_by_name(group_means(groups)),
        }
        rates = self._throughput.read(self._device)
        counts = {"images": progress.images, "tokens": progress.tokens, "epoch": progress.position.epoch}
        self._metrics.write("train", progress.step, **values, **counts, **rates)
        self._figures |= {
            "loss": f"{values['loss']:.4f}",
            "tokens/s": f"{rates['tokens_per_second']:,.0f}",
            "images/s": f"{rates['images_per_second']:,.1f}",
        }
        if "mfu" in rates:
            self._figures["MFU"] = f"{rates['mfu']:.1%}"

    def _aligned(self, step: int) -> bool:
        """Whether the step that led here aligned with a teacher."""
        teacher = self._config.teacher
        return teacher is not None and teacher.applies(step - 1)

    def _apart(self, *, held_out: bool, pictures: bool, save: bool) -> None:
        """What is not training, and does not count in its throughput."""
        step = self._state.progress.step
        if held_out and self._held_out is not None:
            self._measure(self._held_out)
        if pictures:
            pipe = self._pipeline()
            if pipe is not None:
                draw_pictures(pipe, self._config, self._folder.samples, step)
        if save:
            self._save()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._throughput.pause()

    def _measure(self, packs: PackLoader) -> None:
        """The held-out loss; keep the model where none was lower, and warn where it rises."""
        step = self._state.progress.step
        result = held_out_loss(self._state, packs, self._config)
        training = float(self._training) / max(self._steps, 1)
        self._training, self._steps = torch.zeros_like(self._training), 0
        self._history.append(Measured(step=step, held_out=result.loss, training=training))
        best = lowest(self._history)
        if self._config.held_out.keep_best and best.step == step:
            self._export(self._folder.best)
        if overfits(self._history) and not self._warned:
            self._warned = True
            if self._state.team.leads:
                logger.warning("step %d: %s", step, warning(best, result.loss))
        if self._metrics is not None:
            values = {"loss": result.loss, "loss_flow": result.flow, "loss_training": training}
            signs = {"overfits": self._warned, "best_step": best.step}
            self._metrics.write("held_out", step, **values, images=result.images, **signs, **_by_name(result.groups))
        self._figures["held-out"] = f"{result.loss:.4f}"

    def _save(self) -> None:
        self._checkpoints.save(self._state)
        self._export(self._folder.model)
        self._saved_step = self._state.progress.step

    def _export(self, folder: Path) -> None:
        pipe = self._pipeline()
        if pipe is not None:
            export(pipe, self._state.average, self._config, folder)

    def _pipeline(self) -> Pipeline | None:
        """The averaged weights as a pipeline, in the leading process."""
        average = self._state.team.whole(self._state.average)
        if average is None:
            return None
        if self._autoencoder is None:  # not before the first pictures: it may be large
            self._autoencoder = self._dataset.autoencoder().to(self._device)
        return pipeline_of(average, self._dataset, self._autoencoder, self._config, self._folder.root.name)


def _by_name(groups: Mapping[str, float]) -> dict[str, float]:
    """Groups' losses by their names in the metrics."""
    return {f"loss_flow_{name}": value for name, value in groups.items()}


def _metrics(folder: RunFolder, config: TrainConfig, state: TrainState) -> Metrics:
    tracker = Tracker(config.tracker, folder.root, config) if config.tracker is not None else None
    return Metrics(folder.metrics, state.progress.step, tracker)
