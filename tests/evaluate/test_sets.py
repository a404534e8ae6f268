"""Sets gathered as a stream: which images are kept, what is summed up of the others, and that it is kept on disk."""

import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyres.errors import DataError
from anyres.evaluate import sets
from anyres.evaluate.metrics import InceptionScore
from anyres.evaluate.moments import Moments
from anyres.evaluate.pictures import Picture
from anyres.evaluate.sets import Collector, FeatureSet
from tests.evaluate.made_sets import classes, feature_set, normal

IMAGES = 90
FOUND = {
    "features": normal(IMAGES, 5, 1).astype(np.float32),
    "spatial": normal(IMAGES, 3, 2).astype(np.float32),
    "probabilities": classes(IMAGES, 4).astype(np.float32),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "FRECHET_IMAGES", 50)
    monkeypatch.setattr(sets, "CHUNK", 16)


def made_picture(number: int, name: str | None = None) -> Picture:
    pixels = np.zeros((4 + number % 3, 6, 3), np.uint8)
    return Picture(name=name or str(number), label=f"label {number % 4}", content_hash="", pixels=pixels)


def gathered(*, kept: int = IMAGES, seed: int = 0, expected: int = IMAGES, cuts: tuple[int, ...] = ()) -> FeatureSet:
    collector = Collector(seed=seed, expected=expected, kept=kept)
    for rows in np.split(np.arange(IMAGES), sorted(cuts)):
        collector.add([made_picture(i) for i in rows.tolist()], {name: found[rows] for name, found in FOUND.items()})
    return collector.finish()


def assert_same(one: FeatureSet, other: FeatureSet) -> None:
    assert (one.count, one.names, one.labels) == (other.count, other.names, other.labels)
    for name in ("sizes", "features", "spatial", "probabilities"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("moments", "spatial_moments", "score"):
        assert (getattr(one, name) is None) == (getattr(other, name) is None)


@pytest.mark.parametrize("expected", [IMAGES, 10 * IMAGES])  # also where fewer came than were expected
def test_all_images_are_kept_as_they_came_where_there_is_room(expected):
    found = gathered(cuts=(1, 30, 37), expected=expected)
    assert (found.count, len(found)) == (IMAGES, IMAGES)
    assert found.names == tuple(map(str, range(IMAGES)))
    assert found.labels == tuple(f"label {i % 4}" for i in range(IMAGES))
    assert found.sizes.tolist() == [[4 + i % 3, 6] for i in range(IMAGES)]
    for name, values in FOUND.items():
        np.testing.assert_array_equal(getattr(found, name), values)
    assert found.moments is found.spatial_moments is found.score is None  # they follow from the features


@given(cuts=st.lists(st.integers(1, IMAGES - 1), max_size=6, unique=True), seed=st.integers(0, 5))
def test_the_same_images_are_kept_and_summed_up_whatever_the_batches(cuts, seed):
    found, whole = gathered(kept=20, seed=seed, cuts=tuple(cuts)), gathered(kept=20, seed=seed)
    assert len(found) == 20
    assert_same(found, whole)
    rows = list(map(int, found.names))
    assert rows == sorted(rows)
    np.testing.assert_array_equal(found.features, FOUND["features"][rows])
    for name, moments in (("features", found.moments), ("spatial", found.spatial_moments)):
        assert moments is not None
        expected = Moments.of(FOUND[name])
        assert moments.count == found.count == IMAGES
        np.testing.assert_allclose(moments.mean, expected.mean, atol=1e-12)
        np.testing.assert_allclose(moments.covariance, expected.covariance, atol=1e-12)
    score = InceptionScore(4)
    score.add(FOUND["probabilities"])
    assert found.score is not None
    assert found.score.value == pytest.approx(score.value, rel=1e-9)


def test_the_choice_follows_from_the_seed_and_each_image_is_as_likely():
    chosen = [gathered(kept=30, seed=seed).names for seed in range(150)]
    assert len(set(chosen)) == len(chosen)
    kept = np.array([np.isin(np.arange(IMAGES), np.array(names, dtype=int)) for names in chosen])
    often = kept.mean(axis=0)
    np.testing.assert_allclose(often, 1 / 3, atol=0.2)  # five times the error
    assert often.reshape(3, 30).mean(axis=1) == pytest.approx([1 / 3] * 3, abs=0.04)  # early and late ones alike
    assert (kept[:, 1:] & kept[:, :-1]).mean() == pytest.approx(1 / 9, abs=0.02)  # neighbours have nothing in common


@pytest.mark.parametrize(("expected", "given_"), [(50, True), (49, False)])
def test_spatial_features_are_gathered_only_for_as_many_images_as_a_frechet_distance_needs(expected, given_):
    for kept in (20, IMAGES):
        found = gathered(expected=expected, kept=kept)
        assert (found.spatial is not None) == given_
        assert (found.spatial_moments is not None) == (given_ and kept == 20)


def test_a_network_without_classes_gives_no_probabilities():
    collector = Collector(seed=0, expected=IMAGES, kept=20)
    collector.add([made_picture(i) for i in range(IMAGES)], {"features": FOUND["features"]})
    found = collector.finish()
    assert found.probabilities is found.score is None
    assert found.moments is not None


class Name(str):
    """A name that tells when nobody holds it any more."""

    __slots__ = ("__weakref__",)


def test_memory_does_not_grow_with_the_set():
    """No more rows are held than twice those kept and a chunk, and none keeps its batch in memory."""
    kept, batch, rows, batches = 25, 10, [], []
    collector = Collector(seed=0, expected=10_000, kept=kept)
    for start in range(0, 1000, batch):
        names = [Name(start + i) for i in range(batch)]
        values = normal(batch, 5, start).astype(np.float32)
        rows += [weakref.ref(name) for name in names]
        batches.append(weakref.ref(values))
        collector.add([made_picture(0, name) for name in names], {"features": values})
        del names, values
        assert sum(row() is not None for row in rows) <= 2 * kept + sets.CHUNK + batch
        assert not any(found() is not None for found in batches)
    assert len(collector.finish()) == kept


def test_an_empty_set_is_a_set():
    found = Collector(seed=0, expected=0).finish()
    assert (found.count, len(found), found.sizes.shape) == (0, 0, (0, 2))


def test_rows_are_taken_also_several_times():
    found = gathered().take([7, 3, 7])
    assert (found.count, len(found)) == (3, 3)
    assert found.names == ("7", "3", "7")
    assert found.sizes.tolist() == [[5, 6], [4, 6], [5, 6]]
    for name, values in FOUND.items():
        np.testing.assert_array_equal(getattr(found, name), values[[7, 3, 7]])


@given(images=st.integers(1, 40), count=st.integers(1, 50))
def test_a_spread_is_even_and_of_so_many_images(images, count):
    found = np.array(feature_set(normal(images)).spread(count).names, dtype=int)
    assert len(found) == min(images, count)
    assert found[0] == 0
    if len(found) > 1:
        steps = np.diff(found)
        assert found[-1] == images - 1
        assert 1 <= steps.min() <= steps.max() <= steps.min() + 1


def test_a_part_of_the_kept_images_stands_for_itself_not_for_all():
    whole = gathered(kept=20)
    assert whole.moments is not None
    part = whole.take(range(10))
    assert part.count == 10
    assert part.moments is part.spatial_moments is part.score is None


@pytest.mark.parametrize("kept", [IMAGES, 20])
@pytest.mark.parametrize("expected", [IMAGES, 30])
def test_a_set_is_read_as_it_was_written(tmp_path, kept, expected):
    written = gathered(kept=kept, expected=expected)
    written.save(tmp_path / "set.safetensors")
    read = FeatureSet.load(tmp_path / "set.safetensors")
    assert_same(read, written)
    for name in ("moments", "spatial_moments"):
        if getattr(written, name) is not None:
            for part, value in getattr(written, name).state().items():
                np.testing.assert_array_equal(getattr(read, name).state()[part], value)
    if written.score is not None:
        assert read.score is not None
        for score in (read.score, written.score):  # the stream goes on, too
            score.add(classes(7, 4, seed=9))
        assert read.score.value == written.score.value


def test_names_and_labels_of_any_script_are_kept(tmp_path):
    written = feature_set(normal(2), labels=["a\nb", 'Ελένη "x"'])
    written.save(tmp_path / "set.safetensors")
    assert FeatureSet.load(tmp_path / "set.safetensors").labels == written.labels


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _another(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weights": np.zeros(3)}, path)


@pytest.mark.parametrize("damage", [_truncate, _another, Path.unlink, lambda path: path.write_bytes(b"{}" * 99)])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "set.safetensors"
    gathered(kept=20).save(path)
    damage(path)
    with pytest.raises(DataError, match=r"set\.safetensors cannot be read") as refused:
        FeatureSet.load(path)
    assert "run the command" in refused.value.fix
