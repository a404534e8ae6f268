import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from anyres.errors import ConfigError
from anyres.flow.guidance import GuidanceConfig, GuidedVelocity
from anyres.flow.loss import alignment_loss, direction_loss, flow_loss
from anyres.flow.path import PATHS, LinearPath, Path, path_named
from anyres.flow.time import TimeConfig, TimeShift, shifted_times, solver_times, training_times

pytestmark = pytest.mark.float64

paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@paths
def test_a_path_runs_from_data_to_noise_and_its_velocity_is_the_derivative(path: Path) -> None:
    x, noise = draws(7, 3), draws(7, 3, seed=1)
    torch.testing.assert_close(path.sample(x, noise, torch.zeros(7).double()).x_t, x)
    torch.testing.assert_close(path.sample(x, noise, torch.ones(7).double()).x_t, noise)
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    step = 1e-6
    slope = (path.sample(x, noise, t + step).x_t - path.sample(x, noise, t - step).x_t) / (2 * step)
    torch.testing.assert_close(path.sample(x, noise, t).velocity, slope, rtol=1e-6, atol=1e-6)


def test_the_linear_velocity_is_noise_minus_data() -> None:
    x, noise = draws(4, 3), draws(4, 3, seed=1)
    sample = LinearPath().sample(x, noise, torch.rand(4).double())
    torch.testing.assert_close(sample.velocity, noise - x)


@paths
def test_the_score_of_a_known_point_gives_back_the_noise(path: Path) -> None:
    x, noise = draws(5, 2), draws(5, 2, seed=1)
    t = 0.3
    sample = path.sample(x, noise, torch.full((5,), t).double())
    sigma = path.coefficients(torch.tensor(t).double()).sigma
    torch.testing.assert_close(path.score(sample.x_t, sample.velocity, t), -noise / sigma, rtol=1e-6, atol=1e-6)


def test_the_score_of_a_gaussian_is_known() -> None:
    """For data N(0, 1) on the linear path, x_t is N(0, (1 − t)² + t²) and the velocity is (2t − 1)/var · x_t."""
    t, x = 0.35, draws(9, 1)
    variance = (1 - t) ** 2 + t**2
    torch.testing.assert_close(LinearPath().score(x, (2 * t - 1) / variance * x, t), -x / variance)


def test_unknown_paths_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        path_named("cosin")


def test_times_follow_their_distribution() -> None:
    normal = draws(200_000)
    tokens = torch.ones(200_000, dtype=torch.int64)
    uniform = training_times(normal, tokens, TimeConfig(distribution="uniform")).sort().values
    assert float((uniform - torch.linspace(0, 1, 200_000)).abs().max()) < 0.005  # Kolmogorov–Smirnov
    logits = torch.logit(training_times(normal, tokens, TimeConfig(mean=0.5, std=2.0)))
    assert float(logits.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(logits.std()) == pytest.approx(2.0, abs=0.02)


@given(st.integers(1, 4096), st.integers(1, 4096), st.floats(0.01, 0.99))
def test_at_power_one_half_a_plain_image_is_as_uncertain_at_every_size(base: int, tokens: int, t: float) -> None:
    """Equation 23 of arXiv 2403.03206, by what it was derived from: t/(1 − t)/√n stays."""
    shift = TimeShift(power=0.5, base=base)
    moved = float(shift.moved(torch.tensor([t], dtype=torch.float64), torch.tensor([tokens]))[0])
    assert moved / (1 - moved) / tokens**0.5 == pytest.approx(t / (1 - t) / base**0.5)
    assert shifted_times((1.0, t, 0.0), shift.factor(tokens)) == (1.0, pytest.approx(moved), 0.0)
    assert (moved > t) == (tokens > base) or moved == pytest.approx(t)


def test_no_power_moves_nothing_at_all() -> None:
    t, tokens = torch.rand(50, generator=torch.Generator().manual_seed(0)), torch.arange(1, 51)
    assert torch.equal(TimeShift(power=0.0, base=7).moved(t, tokens), t)
    assert shifted_times(solver_times(7), TimeShift().factor(31)) == solver_times(7)


def test_times_of_large_images_are_drawn_with_more_noise() -> None:
    normal, shift = draws(50_000), TimeShift(power=0.5, base=64)
    for tokens, move in ((16, -math.log(2)), (64, 0.0), (1024, math.log(4))):  # the logit of t moves by ln s
        times = training_times(normal, torch.full((50_000,), tokens), TimeConfig(shift=shift))
        assert float(torch.logit(times).mean()) == pytest.approx(move, abs=0.02)
        assert float(torch.logit(times).std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("wrong", [{"power": -0.1}, {"power": float("nan")}, {"base": 0}])
def test_impossible_shifts_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="time shift"):
        TimeShift(**wrong)


def test_losses_against_their_definitions() -> None:
    patch, channels, tokens = 2, 3, 5
    predicted, velocity = draws(tokens, channels * patch**2), draws(tokens, channels * patch**2, seed=1)
    flow, direction = flow_loss(predicted, velocity), direction_loss(predicted, velocity, patch**2)
    for n in range(tokens):
        assert float(flow[n]) == pytest.approx(float(((predicted[n] - velocity[n]) ** 2).mean()))
        cosines = []
        for cell in range(patch**2):
            a, b = predicted[n].view(channels, -1)[:, cell], velocity[n].view(channels, -1)[:, cell]
            cosines.append(float(a @ b / (a.norm() * b.norm())))
        assert float(direction[n]) == pytest.approx(1 - math.fsum(cosines) / len(cosines))
    torch.testing.assert_close(alignment_loss(predicted, velocity), direction_loss(predicted, velocity, 1))


@given(st.floats(0.1, 10))
def test_direction_ignores_length_and_flow_does_not(factor: float) -> None:
    predicted, velocity = draws(4, 6), draws(4, 6, seed=1)
    torch.testing.assert_close(direction_loss(factor * predicted, velocity, 1), direction_loss(predicted, velocity, 1))
    assert float(flow_loss(velocity, velocity).max()) == 0


def test_losses_are_computed_in_float32_or_better() -> None:
    predicted = draws(4, 6).bfloat16()
    assert flow_loss(predicted, predicted).dtype == torch.float32
    assert direction_loss(predicted, predicted, 1).dtype == torch.float32


def field(scale: float, low: float, high: float, calls: list[str]) -> GuidedVelocity:
    def conditional(x: Tensor, t: float) -> Tensor:
        calls.append("one")
        return x

    def both(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        calls.append("both")
        return x, torch.zeros_like(x)

    return GuidedVelocity(conditional=conditional, both=both, guidance=GuidanceConfig(scale=scale, low=low, high=high))


def test_guidance_acts_in_its_interval_ends_included_judged_at_the_step_start() -> None:
    x, calls = torch.ones(2, 1), []
    guided = field(3.0, 0.25, 0.75, calls)
    assert float(guided(x, 0.75, 0.75)[0]) == 3.0
    assert float(guided(x, 0.1, 0.25)[0]) == 3.0
    assert float(guided(x, 0.5, 0.75 + 1e-12)[0]) == 1.0
    assert float(guided(x, 0.5, 0.25 - 1e-12)[0]) == 1.0
    assert calls == ["both", "both", "one", "one"]


def test_scale_one_needs_one_branch() -> None:
    calls: list[str] = []
    field(1.0, 0, 1, calls)(torch.ones(1, 1), 0.5, 0.5)
    assert calls == ["one"]


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.2), (-0.1, 0.5), (0, 1.5)])
def test_impossible_intervals_are_refused(low: float, high: float) -> None:
    with pytest.raises(ConfigError, match="interval"):
        GuidanceConfig(scale=2.0, low=low, high=high)
