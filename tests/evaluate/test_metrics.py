"""The metrics against their definitions, written out; streams against the whole; intervals that hold the truth."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from anyres.errors import DataError
from anyres.evaluate import metrics
from anyres.evaluate.metrics import InceptionScore, Moments, frechet_distance, kernel_distance, neighbourhoods


def normal(images: int, dim: int = 8, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((images, dim)) + shift


def moments(features: np.ndarray, cuts: tuple[int, ...] = ()) -> Moments:
    gathered = Moments(features.shape[1])
    for part in np.split(features, sorted(cuts)):
        if len(part):
            gathered.add(part)
    return gathered


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", 7)


@given(cuts=st.lists(st.integers(0, 40), max_size=5), seed=st.integers(0, 100))
def test_moments_of_a_stream_are_those_of_the_whole(cuts, seed):
    features = normal(40, 5, seed) * 100 + 1e4  # far from zero, where sums of squares would lose digits
    gathered = moments(features, tuple(cuts))
    np.testing.assert_allclose(gathered.mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(gathered.covariance, np.cov(features.T), rtol=1e-9, atol=1e-7)


def test_moments_merge_in_any_order():
    parts = [normal(n, 4, n) for n in (3, 1, 9)]
    forth, back = Moments(4), Moments(4)
    for part in parts:
        forth.merge(moments(part))
    for part in parts[::-1]:
        back.merge(moments(part))
    np.testing.assert_allclose(forth.covariance, back.covariance, rtol=1e-12, atol=1e-14)
    assert forth.count == back.count == 13


@pytest.mark.parametrize("images", [(200, 300), (20, 300), (5, 6)])  # also fewer images than features
def test_the_frechet_distance_is_that_of_scipys_root(images):
    a, b = normal(images[0], 24, 1) * 2, normal(images[1], 24, 2, shift=0.3)
    covariances = [np.cov(x.T) for x in (a, b)]
    # eps, as the usual evaluators add where the product is singular
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1] + 1e-14 * np.eye(24)).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(expected, rel=1e-6)


def test_the_frechet_distance_of_a_set_to_itself_is_nothing_and_symmetric():
    a, b = moments(normal(30, 6, 1)), moments(normal(50, 6, 2, shift=1))
    assert abs(frechet_distance(a, a)) < 1e-10
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def kid_by_definition(a: np.ndarray, b: np.ndarray) -> float:
    def k(x, y):
        return (x @ y / len(x) + 1) ** 3

    m, n = len(a), len(b)
    within_a = sum(k(a[i], a[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_b = sum(k(b[i], b[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within_a + within_b - 2 * sum(k(x, y) for x in a for y in b) / (m * n)


@pytest.mark.parametrize("images", [(2, 2), (15, 8), (7, 22)])
def test_the_kernel_distance_is_its_definition(images):
    a, b = normal(images[0], 5, 1), normal(images[1], 5, 2, shift=0.5)
    assert kernel_distance(a, b, bootstraps=0).value == pytest.approx(kid_by_definition(a, b), rel=1e-9)


def test_the_kernel_distance_is_unbiased():
    """Of samples of one distribution it is zero on average, however few they are; a biased one is far above."""
    found = [kernel_distance(normal(6, 4, 2 * i), normal(6, 4, 2 * i + 1), bootstraps=0).value for i in range(2000)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    exact = kernel_distance(normal(4000, 3, 10_001), normal(4000, 3, 10_002, shift=0.5), bootstraps=0).value
    held = 0
    for i in range(60):
        found = kernel_distance(normal(60, 3, 2 * i), normal(60, 3, 2 * i + 1, shift=0.5), bootstraps=200)
        assert found.low < found.value < found.high
        held += found.low <= exact <= found.high
    assert held >= 50


def test_the_interval_follows_from_the_seed():
    a, b = normal(20, 3, 1), normal(20, 3, 2)
    assert kernel_distance(a, b, seed=1) == kernel_distance(a, b, seed=1)
    assert kernel_distance(a, b, seed=1) != kernel_distance(a, b, seed=2)


@settings(max_examples=25)
@given(images=st.tuples(st.integers(4, 20), st.integers(4, 20)), shift=st.sampled_from([0.0, 1.0, 3.0]))
def test_neighbourhoods_are_their_definitions(images, shift):
    real, made = normal(images[0], 3, 1), normal(images[1], 3, 2, shift)
    real_radii = np.sort(cdist(real, real), axis=1)[:, 3]
    made_radii = np.sort(cdist(made, made), axis=1)[:, 3]
    distances = cdist(real, made)
    found = neighbourhoods(real, made)
    assert found.precision == np.mean([(distances[:, j] <= real_radii).any() for j in range(len(made))])
    assert found.recall == np.mean([(distances[i] <= made_radii).any() for i in range(len(real))])
    assert found.density == pytest.approx((distances <= real_radii[:, None]).sum() / (3 * len(made)))
    assert found.coverage == np.mean([(distances[i] <= real_radii[i]).any() for i in range(len(real))])


def test_neighbourhoods_of_a_set_with_itself_and_with_one_far_away():
    a = normal(30, 4, 1)
    same, far = neighbourhoods(a, a), neighbourhoods(a, a + 100)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_a_collapse_costs_recall_and_coverage_but_not_precision():
    real = normal(200, 4, 1)
    collapsed = real[:4].repeat(50, axis=0) + normal(200, 4, 2) * 1e-3
    found = neighbourhoods(real, collapsed)
    assert found.precision == 1
    assert found.recall < 0.2 > found.coverage


@given(cuts=st.lists(st.integers(0, 23), max_size=4))
def test_the_inception_score_is_its_definition_however_it_streams(cuts):
    logits = normal(23, 6, 1) * 3
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gathered = InceptionScore(6, split=10)
    for part in np.split(p, sorted(cuts)):
        gathered.add(part)
    splits = [p[:10], p[10:20], p[20:]]
    expected = [np.exp((q * np.log(q / q.mean(axis=0))).sum(axis=1).mean()) for q in splits]
    assert gathered.value == pytest.approx(np.mean(expected), rel=1e-9)


def test_the_inception_score_of_certain_and_of_undecided_classes():
    certain, undecided = InceptionScore(5), InceptionScore(5)
    certain.add(np.eye(5).repeat(4, axis=0))
    undecided.add(np.full((20, 5), 0.2))
    assert certain.value == pytest.approx(5)
    assert undecided.value == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moments(normal(1)).covariance, "1 images for a covariance"),
        (lambda: kernel_distance(normal(1), normal(9)), "1 images for KID"),
        (lambda: neighbourhoods(normal(9), normal(3)), "3 images for precision and recall with k = 3"),
        (lambda: InceptionScore(4).value, "0 images for an Inception Score"),
    ],
)
def test_too_few_images_are_refused_with_how_many_are_needed(call, message):
    with pytest.raises(DataError, match=message) as refused:
        call()
    assert "at least" in refused.value.wanted
