"""The metrics against their definitions, written out; streams against the whole; intervals that hold the truth."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from anyres.errors import DataError
from anyres.evaluate import metrics
from anyres.evaluate.metrics import InceptionScore, kernel_distance, neighbourhoods
from anyres.evaluate.moments import Moments, frechet_distance
from tests.evaluate.made_sets import classes, normal


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BLOCK", 7)


def kid_by_definition(a: np.ndarray, b: np.ndarray) -> float:
    def k(x, y):
        return (x @ y / len(x) + 1) ** 3

    m, n = len(a), len(b)
    within_a = sum(k(a[i], a[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_b = sum(k(b[i], b[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within_a + within_b - 2 * sum(k(x, y) for x in a for y in b) / (m * n)


@pytest.mark.parametrize("images", [(2, 2), (15, 8), (7, 22)])
def test_the_kernel_distance_is_its_definition(images):
    made, real = normal(images[0], 5, 1), normal(images[1], 5, 2, shift=0.5)
    found = kernel_distance(made, real, bootstraps=0).value
    assert found == pytest.approx(kid_by_definition(made, real), rel=1e-9)
    assert found == pytest.approx(kernel_distance(real, made, bootstraps=0).value, rel=1e-9)


def test_the_kernel_distance_is_unbiased():
    """Of samples of one distribution it is zero on average, however few they are; a biased one is far above."""
    found = [kernel_distance(normal(6, 4, 2 * i), normal(6, 4, 2 * i + 1), bootstraps=0).value for i in range(2000)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))


def test_no_draw_is_biased_by_an_image_that_meets_its_own_copy():
    """The replicates of sets of one distribution lie around the value; pairs of copies would lift them far above."""
    excess = []
    for i in range(30):
        found = kernel_distance(normal(20, 8, 2 * i), normal(20, 8, 2 * i + 1), seed=i, bootstraps=200)
        excess.append((found.replicates.mean() - found.value) / found.replicates.std())
    assert abs(np.mean(excess)) < 0.25


def test_the_interval_of_the_kernel_distance_holds_the_truth_about_as_often_as_it_says():
    exact = kernel_distance(normal(2000, 3, 10_001), normal(2000, 3, 10_002, shift=0.5), bootstraps=0).value
    held = 0
    for i in range(60):
        found = kernel_distance(normal(60, 3, 2 * i), normal(60, 3, 2 * i + 1, shift=0.5), bootstraps=200).interval
        assert found.low < found.value < found.high
        held += found.low <= exact <= found.high
    assert held >= 50


def test_draws_follow_from_the_seed_and_the_stream():
    made, real = normal(20, 3, 1), normal(20, 3, 2)
    for measure in (kernel_distance, lambda *sets, **draws: neighbourhoods(*sets, **draws).precision):
        first, again = (measure(made, real, seed=1, stream=1).replicates for _ in range(2))
        assert np.array_equal(first, again)
        for other in ({"seed": 2, "stream": 1}, {"seed": 1, "stream": 2}):
            assert not np.array_equal(first, measure(made, real, **other).replicates)


@settings(max_examples=25)
@given(images=st.tuples(st.integers(4, 20), st.integers(4, 20)), shift=st.sampled_from([0.0, 1.0, 3.0]))
def test_neighbourhoods_are_their_definitions(images, shift):
    made, real = normal(images[0], 3, 2, shift), normal(images[1], 3, 1)
    real_radii = np.sort(cdist(real, real), axis=1)[:, 3]
    made_radii = np.sort(cdist(made, made), axis=1)[:, 3]
    distances = cdist(real, made)
    found = neighbourhoods(made, real, bootstraps=0)
    assert found.precision.value == np.mean([(distances[:, j] <= real_radii).any() for j in range(len(made))])
    assert found.recall.value == np.mean([(distances[i] <= made_radii).any() for i in range(len(real))])
    assert found.density.value == pytest.approx((distances <= real_radii[:, None]).sum() / (3 * len(made)))
    assert found.coverage.value == np.mean([(distances[i] <= real_radii[i]).any() for i in range(len(real))])


def test_the_border_of_a_ball_is_inside():
    real = np.arange(8.0)[:, None] * 2  # whole numbers, so that distances are exact: each ball reaches 4 or 6
    on_the_border, beyond = np.array([[-6.0]] * 4), np.array([[-6.25]] * 4)
    assert neighbourhoods(on_the_border, real, bootstraps=0).precision.value == 1
    assert neighbourhoods(beyond, real, bootstraps=0).precision.value == 0


def test_neighbourhoods_of_a_set_with_itself_and_with_one_far_away():
    real = normal(30, 4, 1)
    same, far = (neighbourhoods(made, real).__dict__ for made in (real, real + 100))
    assert {name: same[name].value for name in ("precision", "recall", "coverage")} == dict.fromkeys(
        ("precision", "recall", "coverage"), 1
    )
    assert {estimate.value for estimate in far.values()} == {0}
    assert {bound for one in far.values() for bound in (one.interval.low, one.interval.high)} == {0}


def test_a_collapse_costs_recall_and_coverage_but_not_precision_and_a_spread_the_other_way_round():
    real = normal(200, 4, 1)
    collapsed = neighbourhoods(real[:4].repeat(50, axis=0) + normal(200, 4, 2) * 1e-3, real)
    assert collapsed.precision.value == 1
    assert collapsed.recall.interval.high < 0.3 > collapsed.coverage.interval.high
    wide = neighbourhoods(5 * normal(200, 4, 3), real)
    assert wide.precision.interval.high < 0.5
    assert wide.recall.interval.low > 0.9


@given(cuts=st.lists(st.integers(0, 23), max_size=4))
def test_the_inception_score_is_its_definition_however_it_streams_and_is_kept(cuts):
    p = classes(23)
    gathered = InceptionScore(6, split=10)
    for part in np.split(p, sorted(cuts)):
        gathered = InceptionScore.restored(gathered.state())
        gathered.add(part)
    splits = [p[:10], p[10:20], p[20:]]
    expected = [np.exp((q * np.log(q / q.mean(axis=0))).sum(axis=1).mean()) for q in splits]
    assert gathered.images == 23
    assert gathered.value == pytest.approx(np.mean(expected), rel=1e-9)


def test_a_score_leaves_the_state_that_it_gave_and_the_one_that_it_took_as_they_were():
    score = InceptionScore(6, split=10)
    score.add(classes(14, seed=1))
    before, state = score.value, score.state()
    score.add(classes(3, seed=2))
    InceptionScore.restored(state).add(classes(3, seed=3))
    assert InceptionScore.restored(state).value == before


def test_the_inception_score_of_certain_and_of_undecided_classes():
    certain, undecided = InceptionScore(5), InceptionScore(5)
    certain.add(np.eye(5).repeat(4, axis=0))
    undecided.add(np.full((20, 5), 0.2))
    assert certain.value == pytest.approx(5)
    assert undecided.value == pytest.approx(1)


def test_the_error_of_the_inception_score_is_that_of_fresh_samples():
    found = [InceptionScore.estimate(classes(300, seed=seed), seed=seed) for seed in range(60)]
    spread = np.std([estimate.value for estimate in found])
    told = np.sqrt(np.mean([np.var(estimate.replicates) for estimate in found]))
    assert spread / 1.5 < told < 1.5 * spread


def test_the_inception_score_and_its_error_are_those_of_all_images_where_some_are_kept():
    every, whole = classes(900, seed=1), InceptionScore(6)
    whole.add(every)
    some = InceptionScore.estimate(every[:100])
    found = InceptionScore.estimate(every[:100], whole=whole)
    assert found.value == whole.value
    assert np.std(some.replicates) / np.std(found.replicates) == pytest.approx(3)


@pytest.mark.parametrize("dim", [12, 5])  # pooled features, and those that keep their place: one formula
def test_the_frechet_distances_are_those_of_adms_evaluator(dim):
    made, real = normal(90, dim, 1) * 1.5, normal(70, dim, 2, shift=0.2)
    mu, sigma = zip(*[(np.mean(x, axis=0), np.cov(x, rowvar=False)) for x in (made, real)], strict=True)
    root = scipy.linalg.sqrtm(sigma[0] @ sigma[1]).real
    difference = mu[0] - mu[1]
    expected = difference @ difference + np.trace(sigma[0]) + np.trace(sigma[1]) - 2 * np.trace(root)
    assert frechet_distance(Moments.of(made), Moments.of(real)) == pytest.approx(expected, rel=1e-6)


def test_precision_and_recall_are_those_of_adms_evaluator(monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", 64)
    made, real = normal(150, 6, 1, shift=0.7), normal(130, 6, 2)

    def inside(points: np.ndarray, of: np.ndarray) -> float:
        among = cdist(of, of)
        np.fill_diagonal(among, np.inf)
        radii = np.sort(among, axis=1)[:, 2]  # the third neighbour, the point itself not counted
        return float((cdist(points, of) <= radii[None]).any(axis=1).mean())

    found = neighbourhoods(made, real)
    assert found.precision.value == pytest.approx(inside(made, real), abs=1e-6)
    assert found.recall.value == pytest.approx(inside(real, made), abs=1e-6)
    assert 0.2 < found.precision.value < 0.95 > found.recall.value > 0.2  # neither is all or nothing


def test_the_inception_score_is_that_of_adms_evaluator():
    p, scores = classes(11_000, 4), []
    for start in range(0, len(p), 5000):
        part = p[start : start + 5000]
        kl = part * (np.log(part) - np.log(np.mean(part, axis=0, keepdims=True)))
        scores.append(np.exp(np.mean(np.sum(kl, axis=1))))
    assert len(scores) == 3
    score = InceptionScore(4)
    score.add(p)
    assert score.value == pytest.approx(np.mean(scores), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message", "wanted"),
    [
        (lambda: kernel_distance(normal(1), normal(9)), "1 images for KID", "at least 2"),
        (lambda: neighbourhoods(normal(9), normal(3)), "3 images for precision and recall with k = 3", "at least 4"),
        (lambda: InceptionScore(4).value, "0 images for an Inception Score", "at least 1"),
    ],
)
def test_too_few_images_are_refused_with_how_many_are_needed(call, message, wanted):
    with pytest.raises(DataError, match=message) as refused:
        call()
    assert wanted == refused.value.wanted


@pytest.mark.parametrize("name", ["precision", "recall", "density", "coverage"])
def test_sets_of_one_kind_differ_by_more_than_their_interval_about_as_rarely_as_it_says(name):
    """Recall and coverage hang on which few images were made, not only on the real ones."""
    real, told = normal(300, 6, 1), 0
    for i in range(60):
        a, b = (neighbourhoods(normal(24, 6, 100 + 2 * i + j), real, stream=j, bootstraps=300) for j in (0, 1))
        apart = (getattr(b, name) - getattr(a, name)).interval
        told += not apart.low <= 0 <= apart.high
    assert told <= 9
