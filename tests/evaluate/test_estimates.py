"""Intervals hold the truth as often as they say; draws are shared between sets where they should be, and only there."""

import numpy as np
import pytest

from anyres.errors import DataError
from anyres.evaluate.estimates import Estimate, jackknifed, made_draws, mean, need, real_draws, share
from anyres.evaluate.metrics import kernel_distance
from tests.evaluate.made_sets import normal


def spread(found: Estimate) -> float:
    return float(np.std(found.replicates))


def test_the_interval_of_a_mean_holds_the_truth_about_as_often_as_it_says():
    held = 0
    for seed in range(400):
        values = np.random.default_rng(seed).exponential(size=60)
        found = mean(values, made_draws(60, 300, seed, 0)).interval
        assert found.value == pytest.approx(values.mean())
        held += found.low <= 1 <= found.high
    assert 0.89 < held / 400 < 0.98


def test_the_interval_is_the_middle_of_the_replicates():
    found = Estimate(value=3.0, replicates=np.arange(1001.0)).interval
    assert (found.value, found.low, found.high) == (3, 25, 975)
    assert str(found) == "3 [25, 975]"


def test_each_draw_is_of_as_many_images_each_as_likely():
    for draws in (made_draws(30, 2000, 1, 0), real_draws(30, 2000, 1)):
        assert draws.shape == (2000, 30)
        assert (draws.sum(axis=1) == 30).all()
        np.testing.assert_allclose(draws.mean(axis=0), 1, atol=0.12)  # five times the error of the mean
        np.testing.assert_allclose(draws.var(axis=0).mean(), 29 / 30, rtol=0.05)


def test_draws_follow_from_the_seed_and_those_of_made_images_from_the_stream_too():
    assert np.array_equal(made_draws(20, 50, 1, 0), made_draws(20, 50, 1, 0))
    assert np.array_equal(real_draws(20, 50, 1), real_draws(20, 50, 1))
    ways = [made_draws(20, 50, 1, 0), made_draws(20, 50, 1, 1), made_draws(20, 50, 2, 0)]
    ways += [real_draws(20, 50, 1), real_draws(20, 50, 2)]
    assert len({way.tobytes() for way in ways}) == len(ways)


def test_streams_are_independent():
    """So the variance of a difference is the sum of both; were the draws shared, equal sets would differ by nothing."""
    values = normal(80, 1, 1)[:, 0]
    one, other = (mean(values, made_draws(80, 4000, 0, stream)) for stream in (0, 1))
    assert abs(np.corrcoef(one.replicates, other.replicates)[0, 1]) < 0.08  # five times its error
    assert spread(one - other) == pytest.approx(np.hypot(spread(one), spread(other)), rel=0.08)
    assert spread(one - one) == 0


def test_two_sets_against_the_same_few_real_images_differ_by_less_than_their_intervals_say():
    """Most of the error is the real images', which both share: the error of the difference is that of fresh samples."""

    def measured(seed: int, stream: int) -> Estimate:
        made, real = normal(400, 3, 3 * seed + stream, shift=0.5), normal(25, 3, 3 * seed + 2)
        return kernel_distance(made, real, seed=seed, stream=stream, bootstraps=200)

    pairs = [[measured(seed, stream) for stream in (0, 1)] for seed in range(40)]
    differences = [one - other for one, other in pairs]
    told = np.sqrt(np.mean([spread(found) ** 2 for found in differences]))
    independent = np.sqrt(np.mean([spread(one) ** 2 + spread(other) ** 2 for one, other in pairs]))
    fresh = np.std([found.value for found in differences])
    assert told < 0.5 * independent
    assert fresh / 1.5 < told < 1.5 * fresh


def test_the_share_of_chosen_images_has_the_error_of_a_binomial():
    found = share(np.arange(400) < 100)
    assert found.value == 0.25
    assert spread(found) == pytest.approx(np.sqrt(0.25 * 0.75 / 400), rel=0.1)


def test_the_jackknife_of_a_mean_is_the_error_that_statistics_gives():
    groups = normal(10, 30, 1)
    left = [np.delete(groups, i, axis=0).mean() for i in range(10)]
    found = jackknifed(float(groups.mean()), left, 1.0, 0, "mean")
    assert found.value == groups.mean()
    assert spread(found) == pytest.approx(groups.mean(axis=1).std(ddof=1) / np.sqrt(10), rel=0.1)
    assert spread(jackknifed(0.0, left, 0.5, 0, "mean")) == pytest.approx(spread(found) / 2)


def test_too_few_images_are_refused_with_how_many_are_needed():
    need(4, 4, "a thing")
    with pytest.raises(DataError, match="got 3 images for a thing") as refused:
        need(3, 4, "a thing", "take more")
    assert (refused.value.wanted, refused.value.fix) == ("at least 4", "take more")
