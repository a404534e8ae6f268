"""Sets of known quality: of equal size, made as they say, and told apart where a metric can tell anything."""

from collections import Counter

import numpy as np
import pytest

from anyres.evaluate import controls
from anyres.evaluate.controls import BLUR, blurred, columns, separations
from anyres.evaluate.figures import METRICS, figures
from anyres.evaluate.results import Column
from anyres.evaluate.sets import FeatureSet
from tests.evaluate.made_sets import classes, feature_set, normal, tinted

LABELS = 12


def mixture(images: int, seed: int, shift: float = 0.0) -> FeatureSet:
    """Images of twelve labels, each a place of its own."""
    numbers = np.arange(images) % LABELS
    features = 0.3 * normal(images, 4, seed) + 2 * normal(LABELS, 4, 1000)[numbers] + shift
    return feature_set(features, labels=[f"label {number:02d}" for number in numbers])


def controls_of(
    made: FeatureSet, held_out: FeatureSet, blurs: FeatureSet, training: FeatureSet, monkeypatch, **options
):
    """The columns, and the set that each was measured on."""
    measured: list[FeatureSet] = []

    def kept(found: FeatureSet, real: FeatureSet, *, seed: int):
        measured.append(found)
        return figures(found, real, seed=seed)

    monkeypatch.setattr(controls, "figures", kept)
    found = columns(made, training, held_out, blurs, **({"seed": 0} | options))
    return found, dict(zip((column.name for column in found), measured, strict=True))


@pytest.mark.parametrize("images", [(40, 100), (100, 40), (50, 50)])
def test_all_columns_are_of_as_many_images(monkeypatch, images):
    held_out = mixture(images[1], 2)
    found, sets = controls_of(mixture(images[0], 1), held_out, mixture(images[1], 3), mixture(60, 4), monkeypatch)
    assert [column.name for column in found] == ["made", "held-out", "collapse", "blur"]
    assert {column.figures.images for column in found} == {len(part) for part in sets.values()} == {min(images)}
    whole = images[0] <= images[1]
    assert found[0].what == ("all of them" if whole else "40 of 100, at random")
    assert sets["held-out"].names == sets["blur"].names  # the same pictures
    for name in ("made", "held-out"):
        assert max(Counter(sets[name].names).values()) == 1


def test_the_choice_follows_from_the_seed(monkeypatch):
    sets = [mixture(images, seed) for seed, images in enumerate((100, 40, 40, 60))]
    chosen = [controls_of(*sets, monkeypatch, seed=seed)[1] for seed in (0, 0, 1)]
    names = [tuple(part.names for part in found.values()) for found in chosen]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("count", [30, 120, 300])
def test_a_collapse_has_few_labels_and_draws_nobody_twice_before_all_once(monkeypatch, count):
    held_out = mixture(120, 2)
    made = mixture(count, 1)
    found, sets = controls_of(made, held_out, held_out, mixture(60, 4), monkeypatch)
    collapse = sets["collapse"]
    assert len(set(collapse.labels)) == 2  # a sixth of twelve
    pool = [name for name, label in zip(held_out.names, held_out.labels, strict=True) if label in collapse.labels]
    often = Counter(collapse.names)
    assert set(often) == set(pool)
    assert max(often.values()) - min(often.values()) <= 1
    assert f"held-out images of 2 of 12 labels ({', '.join(sorted(set(collapse.labels)))})" in found[2].what


@pytest.mark.parametrize("labels", [["one"] * 100, None])
def test_a_collapse_without_labels_has_few_images(monkeypatch, labels):
    held_out = feature_set(normal(100, 4, 2), labels=labels)
    found, sets = controls_of(held_out, held_out, held_out, feature_set(normal(60, 4, 3)), monkeypatch)
    assert set(Counter(sets["collapse"].names).values()) == {10}  # ten times each of ten
    assert "10 of 100 held-out images" in found[2].what


def test_the_controls_tell_a_metric_that_can_be_trusted():
    """Well-separated labels, and a blur that moves every image: the kernel distance sees both, and it is said so."""
    found = columns(mixture(240, 1), mixture(480, 4), mixture(240, 2), mixture(240, 2, shift=0.8), seed=0)
    by_name = {column.name: column.figures for column in found}
    assert by_name["made"].kid.low < by_name["held-out"].kid.high
    assert by_name["collapse"].kid.low > by_name["held-out"].kid.high < by_name["blur"].kid.low
    told = {one.metric: one for one in separations(found)}
    assert told["kid"].collapse
    assert told["kid"].blur
    assert told["recall"].collapse
    assert told["coverage"].collapse
    assert not told["precision"].collapse  # what a collapse makes is real
    assert "frechet" not in told  # too few images


def test_nothing_is_told_apart_where_sets_are_identical():
    held_out = feature_set(normal(100, 4, 2), probabilities=classes(100))
    (one, *_) = columns(held_out, feature_set(normal(100, 4, 3)), held_out, held_out, seed=0)
    same = tuple(Column(name=name, what="", figures=one.figures) for name in ("made", "held-out", "collapse", "blur"))
    found = separations(same)
    assert {part.metric for part in found} == set(METRICS) - {"frechet", "spatial_frechet"}
    assert not any(part.collapse or part.blur for part in found)


def test_a_blur_that_changes_nothing_is_not_told_apart_and_tiny_sets_are_not():
    held_out = mixture(240, 2)
    assert not any(part.blur for part in separations(columns(held_out, mixture(480, 4), held_out, held_out, seed=0)))
    tiny = feature_set(normal(12, 4, 1))
    kid = separations(columns(tiny, feature_set(normal(12, 4, 2)), tiny, feature_set(normal(12, 4, 1) + 0.3), seed=0))[
        0
    ]
    assert (kid.metric, kid.blur) == ("kid", False)


@pytest.mark.parametrize("metric", ["kid", "recall"])
def test_apart_means_on_the_worse_side(metric):
    """A collapse that a metric calls better than real images speaks against the metric."""
    training = mixture(120, 1)
    near, far = (figures(mixture(120, 2, shift), training, seed=0) for shift in (0, 3))

    def told(held_out, other) -> tuple[bool, bool]:
        parts = {"made": near, "held-out": held_out, "collapse": other, "blur": held_out}
        found = separations(tuple(Column(name=name, what="", figures=part) for name, part in parts.items()))
        (one,) = (part for part in found if part.metric == metric)
        return one.collapse, one.blur

    assert told(near, far) == (True, False)
    assert told(far, near) == (False, False)


def test_a_blur_is_of_2_percent_of_the_size_and_keeps_the_mean():
    assert BLUR == 0.02
    widths = []
    for side in (200, 400):
        point = np.zeros((side, side, 3), np.uint8)
        point[side // 2 - 2 : side // 2 + 2] = 255  # a line, 4 px high
        profile = blurred(point)[:, side // 2, 0].astype(float)
        places = np.arange(side)
        middle = (profile * places).sum() / profile.sum()
        widths.append(np.sqrt((profile * (places - middle) ** 2).sum() / profile.sum()))
        assert profile.sum() == pytest.approx(4 * 255, rel=0.05)
    assert widths == pytest.approx([4, 8], rel=0.15)  # the line itself adds about 1 px
    image = np.asarray(tinted(1))
    assert blurred(image).shape == image.shape
    assert blurred(image).dtype == np.uint8
    np.testing.assert_allclose(blurred(image).mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=1)
