"""Large images in tiles: what they give is what the whole gives, and memory does not grow with the image."""

import weakref
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anyres.latents import tiles
from anyres.latents.autoencoder import DcAutoencoder
from anyres.latents.tiles import in_tiles, shares, starts
from tests.made import tiny_dc

SIDES = st.tuples(st.integers(1, 40), st.integers(2, 16), st.integers(1, 15)).filter(
    lambda drawn: drawn[2] < drawn[1] <= drawn[0]
)


@given(SIDES, st.integers(1, 4))
def test_tiles_cover_evenly_and_their_shares_sum_to_one(side_tile_overlap: tuple[int, int, int], finer: int) -> None:
    side, tile, overlap = side_tile_overlap
    begins = starts(side, tile, overlap)
    assert begins[0] == 0
    assert begins[-1] == side - tile
    gaps = [after - before for before, after in pairwise(begins)]
    assert all(0 < gap <= tile - overlap for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1
    total = torch.zeros(side * finer)
    for begin, share in zip(begins, shares(begins, tile, overlap, finer), strict=True):
        assert len(share) == tile * finer
        assert (share >= 0).all()
        total[begin * finer : (begin + tile) * finer] += share
    torch.testing.assert_close(total, torch.ones_like(total))


def test_a_tile_counts_for_nothing_next_to_its_cuts_and_alone_at_the_images_edges() -> None:
    first, _, last = shares(starts(40, 16, 4), 16, 4, 2)
    assert first[:20].eq(1).all()  # 10 cells that no other tile covers
    assert last[-20:].eq(1).all()
    assert first[-2:].eq(0).all()  # a cell, of an overlap of four
    assert last[:2].eq(0).all()
    assert (first.diff() <= 0).all()


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "WHOLE_PX", 64 * 64)
    monkeypatch.setattr(tiles, "TILE_PX", 64)
    monkeypatch.setattr(tiles, "OVERLAP_PX", 32)


@pytest.mark.parametrize("cells", [(16, 16), (20, 20), (37, 16), (16, 50), (41, 23)])
@pytest.mark.parametrize(("finer", "scale"), [(4, 1), (1, 4)])  # decode, encode
def test_what_looks_at_one_cell_only_is_exact(
    small_tiles: None, cells: tuple[int, int], finer: int, scale: int
) -> None:
    inputs = torch.rand(2, 3, cells[0] * scale, cells[1] * scale)
    calls = []

    def run(part: torch.Tensor) -> torch.Tensor:
        calls.append(part.shape[2:])
        if finer > 1:
            return part.repeat_interleave(finer, 2).repeat_interleave(finer, 3)
        return part.unfold(2, scale, scale).unfold(3, scale, scale).amax((4, 5))

    made = in_tiles(run, inputs, cells=cells, px_per_cell=4, channels=3, finer=finer)
    tiled = list(calls)
    torch.testing.assert_close(made, run(inputs))
    assert len(set(tiled)) == 1, "all tiles are of one size"
    assert (len(tiled) > 1) == (cells != (16, 16))
    assert max(tiled[0]) <= 16 * scale


def random_dc() -> DcAutoencoder:
    torch.manual_seed(0)
    return DcAutoencoder(tiny_dc(), name="made")


def seam(whole: torch.Tensor, tiled: torch.Tensor) -> float:
    return float((whole - tiled).square().mean().sqrt() / whole.std())


def test_tiles_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a convolutional network whose view of 6 cells fits into the part that a tile does not count."""
    autoencoder = random_dc()
    latents, images = torch.randn(1, 4, 50, 37), torch.rand(1, 3, 200, 148) * 2 - 1
    whole, code = autoencoder.decode(latents), autoencoder.encode(images)
    monkeypatch.setattr(tiles, "WHOLE_PX", 1)
    monkeypatch.setattr(tiles, "TILE_PX", 112)
    found = {}
    for overlap in (8, 32, 96):
        monkeypatch.setattr(tiles, "OVERLAP_PX", overlap)
        found[overlap] = seam(whole, autoencoder.decode(latents)), seam(code, autoencoder.encode(images))
    assert max(found[96]) < 1e-5
    assert all(coarse > fine for coarse, fine in zip(found[8], found[32], strict=True))


class Peak(TorchDispatchMode):
    """Bytes of all tensors that are alive at once, at most, but for what there was before."""

    def __init__(self, before: torch.Tensor) -> None:
        super().__init__()
        self.alive, self.most, self._known = 0, 0, {before.untyped_storage()._cdata}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.alive += storage.nbytes()
        self.most = max(self.most, self.alive)
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def peak(half: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> int:
    with Peak(inputs) as seen:
        half(inputs)
    return seen.most


def test_memory_is_that_of_a_tile_and_the_image_itself(small_tiles: None, monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder = random_dc()

    def at(side: int) -> tuple[int, int]:
        """Beyond the image, or its latents, that are made."""
        decoding = peak(autoencoder.decode, torch.randn(1, 4, side // 4, side // 4)) - 4 * 3 * side**2
        encoding = peak(autoencoder.encode, torch.rand(1, 3, side, side)) - 4 * 4 * (side // 4) ** 2
        return decoding, encoding

    tile, large = at(64), at(512)
    assert all(many < 1.5 * one for many, one in zip(large, tile, strict=True)), (tile, large)
    monkeypatch.setattr(tiles, "WHOLE_PX", 2**30)
    assert all(whole > 20 * one for whole, one in zip(at(512), tile, strict=True))
