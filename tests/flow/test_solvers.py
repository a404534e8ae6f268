"""Solvers against a flow whose answer is known."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from anyres.errors import ConfigError
from anyres.flow.path import PATHS, LinearPath, Path
from anyres.flow.solvers import euler, euler_maruyama, heun
from anyres.flow.time import solver_times, stochastic_times

pytestmark = pytest.mark.float64

# Data N(μ, s²): E[x | x_t] and E[ε | x_t] are linear in x_t, so velocity, flow and marginals are known.
MEAN, STD = 0.7, 0.5


def gaussian_velocity(path: Path) -> Callable[[Tensor, float, float], Tensor]:
    def velocity(x: Tensor, t: float, step_start: float) -> Tensor:
        c = path.coefficients(torch.tensor(t, dtype=x.dtype))
        variance = (c.alpha * STD) ** 2 + c.sigma**2
        whitened = (x - c.alpha * MEAN) / variance
        return c.d_alpha * (MEAN + c.alpha * STD**2 * whitened) + c.d_sigma * c.sigma * whitened

    return velocity


def order_of(errors: list[float], steps: list[int]) -> float:
    """The slope of log error over log step size, by least squares."""
    x = [math.log(1 / n) for n in steps]
    y = [math.log(error) for error in errors]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    pairs = list(zip(x, y, strict=True))
    return sum((a - mean_x) * (b - mean_y) for a, b in pairs) / sum((a - mean_x) ** 2 for a, _ in pairs)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize(("solver", "order"), [(euler, 1.0), (heun, 2.0)])
def test_order_of_convergence(solver: Callable, order: float, path: Path) -> None:
    noise = torch.linspace(-3, 3, 101, dtype=torch.float64)[:, None]
    exact = MEAN + STD * noise  # the flow of a Gaussian maps quantiles to quantiles
    steps = [64, 128, 256, 512]
    errors = [float((solver(gaussian_velocity(path), noise, solver_times(n)) - exact).norm()) for n in steps]
    assert order_of(errors, steps) == pytest.approx(order, abs=0.12)


def test_euler_maruyama_converges_weakly_at_order_one() -> None:
    """The mean and spread of the result are exact functions of the linear recursion, so no sampling error enters."""
    path = LinearPath()
    velocity = gaussian_velocity(path)
    steps = [64, 128, 256, 512]
    errors = []
    for n in steps:
        times = stochastic_times(n, last=1.0 / n)
        # x ← a·x + b + c·ε is linear: find a, b by running 0 and 1 without noise, and c from the diffusion
        mean, variance = 0.0, 1.0
        for step, (t, t_next) in enumerate(pairwise(times)):
            start = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
            once = euler_maruyama(velocity, start, (t, t_next), lambda step: torch.zeros(2, 1), path)
            b, a = float(once[0]), float(once[1] - once[0])
            mean = a * mean + b
            variance = a * a * variance + (2 * t * (t - t_next) if step < n - 1 else 0.0)
        errors.append(abs(mean - MEAN) + abs(math.sqrt(variance) - STD))
    assert order_of(errors, steps) == pytest.approx(1.0, abs=0.25)


def test_euler_maruyama_samples_the_data_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(20_000, 1, generator=generator, dtype=torch.float64)

    def noise(step: int) -> Tensor:
        return torch.randn(20_000, 1, generator=generator, dtype=torch.float64)

    path = LinearPath()
    result = euler_maruyama(gaussian_velocity(path), start, stochastic_times(250), noise, path)
    assert float(result.mean()) == pytest.approx(MEAN, abs=0.015)
    assert float(result.std()) == pytest.approx(STD, abs=0.015)


def test_the_last_step_of_euler_maruyama_has_no_noise() -> None:
    path = LinearPath()
    start = torch.zeros(3, 1, dtype=torch.float64)
    drawn = []

    def noise(step: int) -> Tensor:
        drawn.append(step)
        return torch.ones(3, 1)

    euler_maruyama(gaussian_velocity(path), start, stochastic_times(5), noise, path)
    assert drawn == [0, 1, 2, 3]


def test_heun_evaluates_twice_but_in_the_last_step_and_tells_the_step_start() -> None:
    calls = []

    def velocity(x: Tensor, t: float, step_start: float) -> Tensor:
        calls.append((round(t, 6), round(step_start, 6)))
        return x

    heun(velocity, torch.ones(1, 1), solver_times(4))
    assert calls == [(1, 1), (0.75, 1), (0.75, 0.75), (0.5, 0.75), (0.5, 0.5), (0.25, 0.5), (0.25, 0.25)]


@pytest.mark.parametrize("solver", [euler, heun])
def test_callbacks_see_every_state(solver: Callable) -> None:
    seen = []
    final = solver(lambda x, t, s: x, torch.ones(2, 1), solver_times(3), lambda step, x: seen.append((step, x)))
    assert [step for step, _ in seen] == [0, 1, 2]
    assert seen[-1][1] is final


def test_times_run_from_noise_to_data() -> None:
    assert solver_times(4) == (1.0, 0.75, 0.5, 0.25, 0.0)
    times = stochastic_times(6)
    assert len(times) == 7
    assert times[0] == 1.0
    assert times[-2:] == (pytest.approx(0.04), 0.0)
    assert max(abs(a - b - 0.192) for a, b in pairwise(times[:6])) < 1e-12


@pytest.mark.parametrize(
    "make", [lambda: solver_times(0), lambda: stochastic_times(1), lambda: stochastic_times(5, 1.0)]
)
def test_impossible_schedules_are_refused(make: Callable) -> None:
    with pytest.raises(ConfigError):
        make()
