"""Moments as a stream, and the Fréchet distance against scipy's root; its error against that of fresh samples."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from anyres.errors import DataError
from anyres.evaluate.moments import Moments, frechet_distance, frechet_estimate
from tests.evaluate.made_sets import normal


def streamed(features: np.ndarray, cuts: tuple[int, ...] = ()) -> Moments:
    gathered = Moments(features.shape[1])
    for part in np.split(features, sorted(cuts)):
        if len(part):
            gathered.add(part)
    return gathered


def by_definition(a: np.ndarray, b: np.ndarray) -> float:
    """Both covariances have the rank of the smaller set, at most: scipy's root needs a little on the diagonal."""
    covariances = [np.cov(x.T) for x in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1] + 1e-14 * np.eye(a.shape[1])).real
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)


@given(cuts=st.lists(st.integers(0, 40), max_size=5), seed=st.integers(0, 100))
def test_moments_of_a_stream_are_those_of_the_whole(cuts, seed):
    features = normal(40, 5, seed) * 100 + 1e4  # far from zero, where sums of squares would lose digits
    gathered = streamed(features, tuple(cuts))
    assert gathered.count == 40
    np.testing.assert_allclose(gathered.mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(gathered.covariance, np.cov(features.T), rtol=1e-9, atol=1e-7)


@given(order=st.permutations(range(4)))
def test_moments_merge_in_any_order(order):
    parts = [normal(images, 4, images) + images for images in (3, 1, 9, 20)]
    merged = Moments.merged([Moments.of(parts[i]) for i in order])
    assert merged.count == 33
    np.testing.assert_allclose(merged.mean, np.concatenate(parts).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, np.cov(np.concatenate(parts).T), rtol=1e-12, atol=1e-12)


def test_a_stream_goes_on_from_its_state_which_it_leaves_as_it_was():
    first, second = normal(7, 3, 1), normal(9, 3, 2)
    stream = Moments.of(first)
    state = stream.state()
    stream.add(second)
    restored = Moments.restored(state)
    np.testing.assert_array_equal(restored.covariance, Moments.of(first).covariance)
    restored.add(second)
    assert restored.count == stream.count == 16
    np.testing.assert_array_equal(restored.mean, stream.mean)
    np.testing.assert_array_equal(restored.covariance, stream.covariance)


def test_known_moments_are_as_good_as_the_features():
    a, b = normal(60, 5, 1), normal(40, 5, 2, shift=1)
    known = Moments.known(b.mean(axis=0), np.cov(b.T))
    np.testing.assert_allclose(known.covariance, np.cov(b.T), rtol=1e-12)
    assert frechet_distance(Moments.of(a), known) == pytest.approx(by_definition(a, b), rel=1e-6)


@pytest.mark.parametrize("images", [(200, 300), (20, 300), (5, 6)])  # also fewer images than features
def test_the_frechet_distance_is_that_of_scipys_root(images):
    a, b = normal(images[0], 24, 1) * 2, normal(images[1], 24, 2, shift=0.3)
    assert frechet_distance(streamed(a), streamed(b)) == pytest.approx(by_definition(a, b), rel=1e-6)


@pytest.mark.parametrize("images", [50, 5])
def test_the_frechet_distance_of_a_set_to_itself_is_nothing_and_symmetric(images):
    a, b = streamed(normal(images, 8, 1)), streamed(normal(50, 8, 2, shift=1))
    assert abs(frechet_distance(a, a)) < 1e-6
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)


def test_the_error_of_the_frechet_distance_is_that_of_fresh_samples():
    real = Moments.of(normal(4000, 6, 10_000))
    found = [frechet_estimate(normal(200, 6, seed, shift=0.3), real, seed=seed) for seed in range(80)]
    spread = np.std([estimate.value for estimate in found])
    told = np.sqrt(np.mean([np.var(estimate.replicates) for estimate in found]))
    assert spread / 1.5 < told < 1.5 * spread


@pytest.mark.parametrize("order", ["sorted", "in turns"])
def test_the_error_is_as_large_whatever_the_order_of_the_images(order):
    """Pictures come by label, or by label in turns: neither makes the sets that are left out any more alike."""
    centres = np.repeat(np.arange(10), 40) if order == "sorted" else np.tile(np.arange(10), 40)
    made = normal(400, 4, 1) * 0.1 + centres[:, None]
    real = Moments.of(normal(2000, 4, 2) * 3 + 4.5)

    def error(features: np.ndarray) -> float:
        return float(np.mean([np.std(frechet_estimate(features, real, seed=seed).replicates) for seed in range(20)]))

    assert error(made) == pytest.approx(error(np.random.default_rng(3).permutation(made)), rel=0.25)


def test_the_value_and_the_error_are_those_of_all_images_where_the_features_of_some_are_kept():
    every, real = normal(1600, 4, 1, shift=0.5), Moments.of(normal(500, 4, 2))
    some = frechet_estimate(every[:100], real)
    whole = frechet_estimate(every[:100], real, whole=Moments.of(every))
    assert whole.value == frechet_distance(Moments.of(every), real)
    assert np.std(some.replicates) / np.std(whole.replicates) == pytest.approx(4)  # √(1600 / 100)


def test_one_image_has_no_covariance():
    with pytest.raises(DataError, match="1 images for a covariance") as refused:
        _ = Moments.of(normal(1)).covariance
    assert "at least 2" in refused.value.wanted
