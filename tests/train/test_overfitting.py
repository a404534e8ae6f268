"""When a held-out loss is said to rise: on made curves, with noise of known spread."""

import json
from pathlib import Path

import numpy as np
import pytest

from anyres.train.overfitting import Measured, lowest, overfits, read_history

RNG_SEED = 0
RUNS = 300


def curve(held_out: np.ndarray, training: np.ndarray) -> list[Measured]:
    return [
        Measured(step=100 * (i + 1), held_out=float(h), training=float(t))
        for i, (h, t) in enumerate(zip(held_out, training, strict=True))
    ]


def first_warning(held_out: np.ndarray, training: np.ndarray) -> int | None:
    """The number of measurements after which it is said."""
    history = curve(held_out, training)
    return next((n for n in range(1, len(history) + 1) if overfits(history[:n])), None)


def warned(shape: np.ndarray, noise: float) -> list[int]:
    """Of runs with that noise, those that are warned of, by when."""
    rng, x = np.random.default_rng(RNG_SEED), np.linspace(0, 1, len(shape))
    found = []
    for _ in range(RUNS):
        held_out = shape * (1 + noise * rng.normal(size=len(shape)))
        training = (0.9 - 0.3 * x) * (1 + 0.02 * rng.normal(size=len(shape)))
        found.append(first_warning(held_out, training))
    return [number for number in found if number is not None]


X = np.linspace(0, 1, 20)


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.003, 0.01, 0.03])
def test_false_alarms_are_rare(noise: float) -> None:
    assert len(warned(np.ones(20), noise)) <= 0.04 * RUNS  # the worst case: nothing but noise
    assert len(warned(0.7 + 0.3 * np.exp(-3 * X), noise)) <= 0.005 * RUNS


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.003])
def test_a_rise_of_a_twentieth_is_seen(noise: float) -> None:
    """Lowest at the tenth of twenty measurements."""
    found = warned(0.9 + 0.2 * (X - 0.5) ** 2, noise)
    assert len(found) == RUNS
    assert 11 <= np.median(found) <= 18


def test_a_loss_that_rises_with_that_of_training_is_no_overfitting() -> None:
    rising = 0.9 + 0.8 * (X - 0.5) ** 2
    assert first_warning(rising, 0.9 - 0.3 * X) is not None
    assert first_warning(rising, rising) is None  # the run diverges


def test_one_measurement_that_stands_out_is_neither_lowest_nor_a_rise() -> None:
    falling = 0.7 + 0.3 * np.exp(-3 * X)
    for outlier in (0.5, 2.0):
        held_out = falling.copy()
        held_out[12] = outlier
        assert first_warning(held_out, 0.9 - 0.3 * X) is None


def test_the_history_is_read_up_to_the_step_that_a_run_goes_on_from(tmp_path: Path) -> None:
    lines = [
        {"kind": "train", "step": 1, "loss": 3.0},
        {"kind": "held_out", "step": 2, "loss": 0.9, "loss_training": 1.0},
        {"kind": "held_out", "step": 4, "loss": 0.8, "loss_training": 0.7},
        {"kind": "held_out", "step": 6, "loss": 0.85, "loss_training": 0.6},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "held_ou')
    assert read_history(path, 4) == [
        Measured(step=2, held_out=0.9, training=1.0),
        Measured(step=4, held_out=0.8, training=0.7),
    ]
    assert lowest(read_history(path, 6)).step == 4
    assert read_history(tmp_path / "none.jsonl", 4) == []
