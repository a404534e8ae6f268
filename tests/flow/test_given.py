"""Given tokens follow their path under every solver; the others cannot tell who holds them."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from anyres.flow.given import GivenTokens, PartlyGivenVelocity
from anyres.flow.path import PATHS, CosinePath, LinearPath, Path
from anyres.flow.solvers import euler, euler_maruyama, heun
from anyres.flow.time import solver_times, stochastic_times

pytestmark = pytest.mark.float64


def draws(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def given(data: Tensor, *release: float) -> GivenTokens:
    return GivenTokens(data=data, release=torch.tensor(release, dtype=data.dtype)[:, None])


def foreign(x: Tensor, t: float, step_start: float) -> Tensor:
    """What a network might say: it moves every token, each by what all are."""
    return torch.sin(3 * x) + x.mean() - t


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("t", [1.0, 0.6, 0.03])
def test_the_velocity_of_known_data_is_the_paths(path: Path, t: float) -> None:
    data, noise = draws(5, 3, seed=0), draws(5, 3, seed=1)
    point = path.sample(data, noise, torch.full((5,), t, dtype=torch.float64))
    torch.testing.assert_close(path.velocity_given(point.x_t, data, t), point.velocity, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", [euler, heun])
def test_a_given_token_is_its_path_point_at_every_step_and_its_data_at_the_end(solver: Callable) -> None:
    data, noise, times, seen = draws(3, 4, seed=0), draws(3, 4, seed=1), solver_times(10), []
    known = given(data, 0.0, 0.3, 1.0)
    velocity = PartlyGivenVelocity(velocity=foreign, path=LinearPath(), given=known)
    end = known.finished(solver(velocity, noise, times, lambda step, x: seen.append(x)))
    for t, x in zip(times[1:], seen, strict=True):
        torch.testing.assert_close(x[0], (1 - t) * data[0] + t * noise[0], rtol=1e-12, atol=1e-12)
        on_path = torch.allclose(x[1], (1 - t) * data[1] + t * noise[1], rtol=1e-9, atol=1e-9)
        assert on_path == (t > 0.29)  # at 0.3, which in floating point is a little more, it is let go
    assert torch.equal(end[0], data[0])
    assert not torch.allclose(end[1:], data[1:], atol=0.05)


@pytest.mark.parametrize("solver", [euler, heun])
def test_tokens_that_are_never_given_go_where_they_would(solver: Callable) -> None:
    noise = draws(3, 4, seed=1)
    free = PartlyGivenVelocity(velocity=foreign, path=LinearPath(), given=given(draws(3, 4, seed=0), 1.0, 1.0, 1.0))
    assert torch.equal(solver(free, noise, solver_times(6)), solver(foreign, noise, solver_times(6)))


def test_the_free_tokens_are_made_beside_the_path_points_of_the_given() -> None:
    """As if the given ones were put back on their path after every step."""
    data, noise, times = draws(3, 4, seed=0), draws(3, 4, seed=1), solver_times(12)
    held = PartlyGivenVelocity(velocity=foreign, path=LinearPath(), given=given(data, 0.0, 0.0, 1.0))
    x = noise
    for t, t_next in pairwise(times):
        x = x + (t_next - t) * foreign(x, t, t)
        x = torch.cat([(1 - t_next) * data[:2] + t_next * noise[:2], x[2:]])
    torch.testing.assert_close(euler(held, noise, times), x, rtol=1e-10, atol=1e-10)


def test_the_network_is_asked_from_the_first_release_on() -> None:
    asked = []

    def network(x: Tensor, t: float, step_start: float) -> Tensor:
        asked.append(round(t, 6))
        return x

    velocity = PartlyGivenVelocity(velocity=network, path=LinearPath(), given=given(draws(2, 4, seed=0), 0.3, 0.0))
    euler(velocity, draws(2, 4, seed=1), solver_times(10))
    assert asked == [0.3, 0.2, 0.1]


def test_a_step_of_heun_is_of_one_field() -> None:
    """A token let go at the end of a step is still given at that step's second evaluation."""
    data, noise = draws(1, 4, seed=0), draws(1, 4, seed=1)
    velocity = PartlyGivenVelocity(velocity=foreign, path=LinearPath(), given=given(data, 0.5))
    after = []
    heun(velocity, noise, solver_times(4), lambda step, x: after.append(x))
    torch.testing.assert_close(after[1], 0.5 * data + 0.5 * noise)


@pytest.mark.parametrize("path", [LinearPath(), CosinePath()], ids=["linear", "cosine"])
def test_under_the_sde_a_given_token_has_the_paths_marginal(path: Path) -> None:
    count, steps, last = 20_000, 200, 0.3
    data = torch.full((count, 1), 0.7, dtype=torch.float64)
    known = GivenTokens(data=data, release=torch.zeros_like(data))
    velocity = PartlyGivenVelocity(velocity=foreign, path=path, given=known)
    times = stochastic_times(steps, last=last)
    x = euler_maruyama(velocity, draws(count, 1, seed=1), times[:-1], lambda step: draws(count, 1, seed=2 + step), path)
    c = path.coefficients(torch.tensor(last, dtype=torch.float64))
    assert float(x.mean()) == pytest.approx(float(c.alpha) * 0.7, abs=0.01)
    # a step's noise is left out at the end of these times
    expected = math.sqrt(float(c.sigma) ** 2 - 2 * last * (1 - last) / (steps - 1))
    assert float(x.std()) == pytest.approx(expected, rel=0.02)
