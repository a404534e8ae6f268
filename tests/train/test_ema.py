import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyres.errors import ConfigError
from anyres.train.config import EmaConfig
from anyres.train.ema import decay_at, power_of_width, update


def weights_of_steps(config: EmaConfig, steps: int) -> np.ndarray:
    """The share of each step's weights in the average after the last step."""
    shares = np.zeros(steps)
    for step in range(1, steps + 1):
        decay = decay_at(step, config)
        shares *= decay
        shares[step - 1] += 1 - decay
    return shares


@pytest.mark.parametrize("width", [0.03, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("steps", [500, 4000])
def test_the_width_is_a_fraction_of_the_run_whatever_its_length(width: float, steps: int) -> None:
    shares = weights_of_steps(EmaConfig(width=width), steps)
    place = np.arange(1, steps + 1) / steps
    mean = (shares * place).sum()
    assert shares.sum() == pytest.approx(1)
    assert np.sqrt((shares * (place - mean) ** 2).sum()) == pytest.approx(width, rel=0.03)


@given(st.floats(0.01, 0.27))
def test_the_power_solves_the_equation(width: float) -> None:
    gamma = power_of_width(width)
    assert np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) == pytest.approx(width, rel=1e-6)


def test_the_constant_average_has_its_decay() -> None:
    shares = weights_of_steps(EmaConfig(kind="constant", decay=0.9), 100)
    np.testing.assert_allclose(shares[1:] / shares[:-1], 1 / 0.9)


@pytest.mark.parametrize("applied", [0.0, 1.0])
def test_a_step_that_was_not_applied_moves_nothing(applied: float) -> None:
    average, model = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    before = average.weight.clone()
    update(average, model, 0.75, torch.tensor(applied))
    expected = before + applied * 0.25 * (model.weight - before)
    torch.testing.assert_close(average.weight, expected)


def test_impossible_widths_are_refused() -> None:
    with pytest.raises(ConfigError):
        EmaConfig(width=0.3)
