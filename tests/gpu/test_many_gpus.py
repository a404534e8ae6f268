"""Training on two GPUs, with NCCL, is training on one, to rounding: launched kernel by kernel, and recorded.

Images sampled on two are those of one, bit for bit.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyres.train import loop
from anyres.train.config import HeldOutConfig, PicturesConfig, TrainConfig
from anyres.train.distributed import local
from anyres.train.loop import train
from anyres.train.state import TrainState
from tests.distributed.processes import together
from tests.distributed.test_many_processes import figures, plan, same
from tests.distributed.test_sampling import sampled
from tests.made import MeanColours, dataset, pipeline
from tests.train.test_run import losses
from tests.train.test_teacher import aligned

pytestmark = pytest.mark.multi_gpu

STEPS = 12


def on_gpus(config: TrainConfig, data: Path, out: Path) -> tuple[Any, bool, str]:
    """How far it came, whether its step was recorded, and what followed the gradient."""
    states: list[TrainState] = []
    honest = loop.run

    def run(config: TrainConfig, state: TrainState, *rest: Any) -> Any:
        states.append(state)
        return honest(config, state, *rest)

    loop.run = run
    progress = train(config, data, out, device="cuda").progress
    return progress, states[0].graphed is not None, type(states[0].update).__name__


def beside_launched(config: TrainConfig, data: Path, out: Path) -> float:
    """Trains; how far a part's gradient was from that of the same passes launched kernel by kernel, at most."""
    honest, furthest = loop.backward, [0.0]

    def backward(state: TrainState, *rest: Any, **options: Any) -> Any:
        loss = honest(state, *rest, **options)
        weights = [weight for weight in state.model.parameters() if weight.grad is not None]
        recorded = [weight.grad for weight in weights]
        graphed, state.graphed = state.graphed, None
        honest(state, *rest, **options)
        state.graphed = graphed
        for weight, gradient in zip(weights, recorded, strict=True):
            ours, theirs = local(gradient), local(weight.grad)
            if theirs.any():
                furthest.append(float((ours - theirs).norm() / theirs.norm()))
            weight.grad = gradient
        return loss

    loop.backward = backward
    train(config, data, out, device="cuda")
    assert len(furthest) > STEPS
    return max(furthest)


def exact(data: Path, **changes: Any) -> TrainConfig:
    return plan(data, steps=STEPS, precision="float32", attention="sdpa", **changes)


def quick(data: Path, **changes: Any) -> TrainConfig:
    return plan(data, steps=STEPS, held_out=HeldOutConfig(share=0), **changes)


def near(one: Path, other: Path) -> bool:
    """Whether losses are those of the other run, to bfloat16's rounding."""
    found, expected = losses(one), losses(other)
    return len(expected) == STEPS and all(
        abs(found[step] - expected[step]) < 0.02 * expected[step] for step in expected
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("made"), multiple_of_cells=2)


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on one GPU: `exact`, and `quick` with two and four packs a step."""
    root = tmp_path_factory.mktemp("alone")
    together(1, on_gpus, exact(data), data, root / "exact")
    for packs in (2, 4):
        together(1, on_gpus, quick(data, packs_per_step=packs), data, root / f"quick-{packs}")
    return root


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_the_loss_on_two_gpus_is_that_on_one_in_float32(data: Path, alone: Path, tmp_path: Path, parallel: str) -> None:
    config = exact(data, parallel=parallel, pictures=PicturesConfig(every=STEPS, sizes=("32x32",), labels=1))
    first, second = together(2, on_gpus, config, data, tmp_path)
    assert first == second
    assert first[1:] == (False, "FusedUpdate")
    assert same(tmp_path, alone / "exact", tolerance=1e-4)
    one, two = (figures(run, "held_out", "loss") for run in (alone / "exact", tmp_path))
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("packs", [2, 4])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_and_near_it_recorded_in_bfloat16(data: Path, alone: Path, tmp_path: Path, parallel: str, packs: int) -> None:
    config = quick(data, parallel=parallel, packs_per_step=packs)
    for _, recorded, update in together(2, on_gpus, config, data, tmp_path):
        assert (recorded, update) == (True, "FusedUpdate")
    assert near(tmp_path, alone / f"quick-{packs}")


@pytest.mark.parametrize("changes", [{}, {"packs_per_step": 4}, {"recomputed_blocks": 2}])
def test_recorded_gradients_of_parts_are_those_that_are_launched(
    data: Path, tmp_path: Path, changes: dict[str, int]
) -> None:
    config = quick(data, parallel="fsdp", cuda_graph="on", **{"packs_per_step": 2, **changes})
    assert max(together(2, beside_launched, config, data, tmp_path)) < 1e-3


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_recorded_run_aligns_with_a_teacher_until_it_ends(tmp_path: Path, parallel: str) -> None:
    """It is recorded once more where the term ends, and then what it leaves out is not exchanged."""
    taught = dataset(tmp_path, teacher=MeanColours(), multiple_of_cells=2)
    config = aligned(quick(taught, parallel=parallel, packs_per_step=2), stop_after=6)
    together(1, on_gpus, config, taught, tmp_path / "one")
    together(2, on_gpus, config, taught, tmp_path / "two")
    assert near(tmp_path / "two", tmp_path / "one")


def test_a_run_goes_on_on_another_number_of_gpus(data: Path, alone: Path, tmp_path: Path) -> None:
    for steps, count, parallel in ((4, 2, "fsdp"), (8, 1, "auto"), (12, 2, "ddp")):
        together(count, on_gpus, replace(exact(data, parallel=parallel), steps=steps), data, tmp_path)
    assert same(tmp_path, alone / "exact", tolerance=1e-4)


def test_images_of_two_gpus_are_those_of_one_bit_for_bit(tmp_path: Path) -> None:
    """Three packs of one shape, of which one GPU's second is recorded, and one of another."""
    pipeline().save_pretrained(tmp_path / "model")
    command = ["sample", str(tmp_path / "model"), "--label", "land", "--device", "cuda", "--no-contact-sheet"]
    command += ["--size", *("32x64", "48x32") * 3, "64x64", "--seed", *"1234567", "--budget", "14"]
    for count in (1, 2):
        found = together(count, sampled, [*command, "--out", str(tmp_path / str(count))])
        assert sorted(found) == [(0, rank) for rank in range(count)]
    one, two = (sorted((tmp_path / name).glob("*.png")) for name in "12")
    assert len(one) == 7
    assert [path.name for path in two] == [path.name for path in one]
    for ours, theirs in zip(two, one, strict=True):
        assert np.array_equal(np.asarray(Image.open(ours)), np.asarray(Image.open(theirs))), ours.name
