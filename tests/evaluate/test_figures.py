"""Which figures sets can give, by group too; planted copies are found, and fresh images are not taken for copies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyres.errors import DataError
from anyres.evaluate import figures as module
from anyres.evaluate.figures import METRICS, estimates, figures, groups, memorisation, nearest, size_groups
from anyres.evaluate.moments import Moments, frechet_distance
from anyres.grid import SHAPES, Size
from tests.evaluate.made_sets import classes, feature_set, normal

MIXED = np.array([(32, 32), (32, 48)] * 20)


@pytest.fixture
def _few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRECHET_IMAGES", 40)


def test_every_metric_has_its_interval_but_those_that_cannot_be_given():
    found = figures(feature_set(normal(30)), feature_set(normal(30, seed=1)), seed=0)
    assert found.images == 30
    assert found.frechet is found.spatial_frechet is found.inception_score is None
    for name in set(METRICS) - {"frechet", "spatial_frechet", "inception_score"}:
        interval = getattr(found, name)
        assert interval.low <= interval.value <= interval.high


@pytest.mark.usefixtures("_few_are_enough")
def test_frechet_distances_are_given_from_enough_images_on_both_sides():
    sets = [
        feature_set(normal(images, seed=images), spatial=normal(images, 3, images), probabilities=classes(images))
        for images in (40, 60, 39)
    ]
    given_ = estimates(sets[0], sets[1], seed=0)
    assert all(given_[name] is not None for name in METRICS)
    for name, part in (("frechet", "features"), ("spatial_frechet", "spatial")):
        expected = frechet_distance(*(Moments.of(getattr(found, part)) for found in sets[:2]))
        assert given_[name].value == pytest.approx(expected, rel=1e-6)
    for made, real in ((sets[2], sets[1]), (sets[1], sets[2])):
        found = estimates(made, real, seed=0)
        assert found["frechet"] is found["spatial_frechet"] is None
        assert found["inception_score"] is not None


@pytest.mark.usefixtures("_few_are_enough")
def test_features_that_keep_their_place_need_images_of_one_size():
    one = {"spatial": normal(40, 3)}
    for sizes in ({"sizes": MIXED}, {"sizes": np.full((40, 2), 48)}):
        found = estimates(feature_set(normal(40), **one, **sizes), feature_set(normal(40, seed=1), **one), seed=0)
        assert found["spatial_frechet"] is None
        assert found["frechet"] is not None


@pytest.mark.usefixtures("_few_are_enough")
def test_distances_are_those_of_all_images_where_only_some_are_kept():
    every = {"made": normal(200, seed=1), "real": normal(300, seed=2, shift=0.5)}
    made, real = (
        feature_set(values[:50], count=len(values), moments=Moments.of(values.astype(np.float32)))
        for values in every.values()
    )
    found = figures(made, real, seed=0)
    assert found.images == 200
    assert found.frechet is not None
    assert found.frechet.value == pytest.approx(frechet_distance(*map(Moments.of, every.values())), rel=1e-5)


def test_the_kernel_distance_of_large_sets_is_that_of_some_of_their_images(monkeypatch):
    monkeypatch.setattr(module, "KID_IMAGES", 100)
    made, real = feature_set(normal(300, seed=1, shift=0.3)), feature_set(normal(400, seed=2))
    some = estimates(made, real, seed=0)["kid"]
    monkeypatch.undo()
    every = estimates(made, real, seed=0)["kid"]
    assert some.value != every.value
    assert some.interval.low < every.value < some.interval.high


def test_too_few_images_for_anything_are_refused():
    with pytest.raises(DataError, match="got 9 images for an evaluation") as refused:
        figures(feature_set(normal(9)), feature_set(normal(30)), seed=0)
    assert "at least 10" in refused.value.wanted


def test_sets_that_are_compared_take_other_draws_of_made_images():
    made, real = feature_set(normal(30, seed=1)), feature_set(normal(30))
    for name in ("kid", "precision"):
        one, same, other = (estimates(made, real, seed=0, stream=stream)[name] for stream in (0, 0, 1))
        assert np.array_equal(one.replicates, same.replicates)
        assert not np.array_equal(one.replicates, other.replicates)
        assert one.value == other.value


def test_groups_are_measured_apart():
    """Of two kinds one is made badly: only its group is far, and the held-out images of both are near."""
    centres = {"a": 0.0, "b": 2.0}

    def of(images: int, seed: int, **shifts: float):
        parts = [normal(images, 4, seed + i, centres[k] + shifts.get(k, 0)) for i, k in enumerate(centres)]
        return feature_set(np.concatenate(parts), labels=["a"] * images + ["b"] * images)

    found = groups(of(40, 1, b=1.5), of(60, 3), of(30, 5), lambda part: list(part.labels), seed=0)
    assert [(group.name, group.images, group.reference_images) for group in found] == [("a", 40, 60), ("b", 40, 60)]
    good, bad = found
    assert good.kid.low < good.held_out_kid.high
    assert bad.kid.low > bad.held_out_kid.high
    assert bad.held_out_kid.low < 0 < bad.held_out_kid.high


def test_groups_with_too_few_images_have_no_distance_and_one_group_is_none():
    made = feature_set(normal(30), labels=["a"] * 20 + ["b"] * 10)
    training = feature_set(normal(30, seed=1), labels=["a"] * 21 + ["b"] * 9)
    held_out = feature_set(normal(20, seed=2), labels=["a"] * 11 + ["b"] * 9)
    a, b = groups(made, training, held_out, lambda part: list(part.labels), seed=0)
    assert a.kid is not None
    assert a.held_out_kid is not None
    assert b.kid is b.held_out_kid is None
    assert (b.images, b.reference_images) == (10, 9)
    others = feature_set(normal(30, seed=1), labels=["b"] * 30)
    lacking, _ = groups(made, others, held_out, lambda part: list(part.labels), seed=0)
    assert (lacking.name, lacking.images, lacking.reference_images, lacking.kid) == ("a", 20, 0, None)
    assert groups(made, training, held_out, lambda part: ["all"] * len(part), seed=0) == ()


def test_groups_by_shape_come_from_tall_to_wide():
    sizes = np.array([(32, 64), (64, 32), (40, 32), (32, 32), (32, 40)])
    made = feature_set(normal(50), sizes=np.repeat(sizes, 10, axis=0))

    def shapes(part) -> list[str]:
        return [Size(*size).shape for size in part.sizes.tolist()]

    assert [group.name for group in groups(made, made, made, shapes, seed=0, order=SHAPES)] == list(SHAPES)


@given(height=st.integers(1, 400), width=st.integers(1, 400))
def test_a_shape_is_that_of_the_turned_image_turned(height, width):
    mirror = dict(zip(SHAPES, SHAPES[::-1], strict=True))
    shape = Size(height, width).shape
    assert Size(width, height).shape == mirror[shape]
    assert (shape == "near-square") == (4 * max(height, width) < 5 * min(height, width))
    assert shape.endswith("or more") == (max(height, width) >= 2 * min(height, width))
    assert "tall" not in shape or height > width


def test_sizes_are_grouped_by_the_square_of_their_area():
    sizes = np.array([(256, 256), (511, 511), (512, 512), (128, 512), (1, 1), (2048, 1024)])
    names = size_groups(feature_set(normal(6), sizes=sizes))
    assert [name.strip() for name in names] == [
        "256–512 px",
        "256–512 px",
        "512–1024 px",
        "256–512 px",
        "1–2 px",
        "1024–2048 px",
    ]
    assert sorted(names) == sorted(names, key=lambda name: int(name.split("–")[0]))  # as text, by size


@pytest.mark.parametrize("block", [7, 1024])
def test_planted_copies_are_found_at_no_distance(monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    # of many magnitudes, so that squares are rounded
    training, held_out, made = (np.exp(2 * normal(images, 64, images)) for images in (50, 40, 30))
    made[:10] = training[31:21:-1]
    found = nearest(*(feature_set(features) for features in (made, training, held_out)))
    assert [neighbour.made for neighbour in found] == list(map(str, range(30)))
    copies, others = found[:10], found[10:]
    assert [(copy.training, copy.distance, copy.typical) for copy in copies] == [(str(31 - i), 0, 0) for i in range(10)]
    for i, neighbour in enumerate(others, start=10):
        distances = np.linalg.norm(training.astype(np.float32) - made[i].astype(np.float32), axis=1)
        assert neighbour.training == str(distances.argmin())
        assert neighbour.distance == pytest.approx(distances.min(), rel=1e-5)
    assert 0.25 < np.mean([neighbour.typical for neighbour in others]) < 0.75  # as near as real ones are


def test_copies_are_memorised_and_fresh_images_are_not():
    training, held_out = feature_set(normal(400, 6, 1)), feature_set(normal(4000, 6, 2))
    copies = feature_set(normal(400, 6, 1)[:200] + 1e-4)
    others = feature_set(normal(2000, 6, 3))
    copied, fresh = (memorisation(made, training, held_out, seed=0) for made in (copies, others))
    assert copied.share.low == copied.share.value == 1
    assert copied.made < 0.01 < copied.held_out
    assert fresh.share.low <= 0.01 <= fresh.share.high < 0.02
    assert fresh.made == pytest.approx(fresh.held_out, rel=0.1)
    half = feature_set(np.concatenate([normal(400, 6, 1)[:100], normal(100, 6, 4)]))
    assert memorisation(half, training, held_out, seed=0).share.value == pytest.approx(0.5, abs=0.03)
