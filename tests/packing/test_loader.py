"""Packs of latents: every row once an epoch, from any position on, whatever makes them."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import numpy as np
import pytest
import torch
from einops import rearrange

from anyres.errors import DataError
from anyres.grid import Cells, Grid, patchify
from anyres.latents.format import LatentDataset
from anyres.packing.loader import PackLoader, Position
from anyres.packing.pack import Pack
from anyres.packing.plan import PackingConfig, pack_shape
from tests.made import dataset

PATCH, BUDGET = 2, 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    return LatentDataset.open(dataset(tmp_path_factory.mktemp("made"), multiple_of_cells=PATCH))


def loader(data: LatentDataset, **changes) -> PackLoader:
    options = {"rows": np.arange(len(data)), "patch": PATCH, "packing": PackingConfig(budget=BUDGET), "seed": 0}
    return PackLoader(data, **{**options, **changes})


def epoch_of(made: PackLoader, epoch: int = 0) -> list[Pack]:
    return [made.pack(epoch, number) for number in range(made.packs_in(epoch))]


def images_of(pack: Pack) -> Iterator[tuple[int, torch.Tensor]]:
    """(row, tokens) of each image."""
    return zip(pack.indices, pack.layout.split(pack.latents), strict=True)


def tokens_of(data: LatentDataset, row: int, *, flipped: bool = False) -> torch.Tensor:
    return patchify(data.read(row, flipped=flipped), Cells(*data.cells[row].tolist()), PATCH)


def same(one: Pack, other: Pack) -> bool:
    return (
        one.indices == other.indices
        and torch.equal(one.latents, other.latents)
        and torch.equal(one.labels, other.labels)
        and torch.equal(one.layout.positions, other.layout.positions)
        and torch.equal(one.layout.cu_seqlens, other.layout.cu_seqlens)
    )


def test_the_next_epoch_is_planned_while_one_runs(data: LatentDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a thread, before a pack of it is asked for."""
    monkeypatch.setattr("anyres.packing.loader.AHEAD", 1)
    made, planned = loader(data), {}
    honest, there = made._planner.packs, threading.Event()

    def packs(epoch: int):
        planned[epoch] = threading.current_thread().name
        found = honest(epoch)
        if epoch == 1:
            there.set()
        return found

    monkeypatch.setattr(made._planner, "packs", packs)
    assert made.packs_in(0) > 4
    with closing(made.stream(Position(epoch=0, pack=0), lambda pack, _number: pack)) as one:
        next(one)
        assert there.wait(10)
    assert sorted(planned) == [0, 1]
    assert planned[1].startswith("packs")


def test_packs_are_made_however_long_the_next_epoch_is_planned(
    data: LatentDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes one of two threads."""
    monkeypatch.setattr("anyres.packing.loader.AHEAD", 1)
    made, enough, waited = loader(data), threading.Event(), []
    honest = made._planner.packs

    def packs(epoch: int):
        if epoch == 1:
            waited.append(enough.wait(5))
        return honest(epoch)

    monkeypatch.setattr(made._planner, "packs", packs)
    with closing(made.stream(Position(epoch=0, pack=0), lambda pack, _number: pack, workers=2)) as one:
        for _ in range(made.packs_in(0) - 2):
            next(one)
        enough.set()
    assert waited == [True]


def stream(made: PackLoader, position: Position, count: int, **options) -> list[tuple[Pack, int]]:
    packs = made.stream(position, lambda pack, number: (pack, number), **options)
    try:
        return list(islice(packs, count))
    finally:
        packs.close()


@pytest.mark.parametrize("algorithm", ["lpfhp", "shuffled_best_fit"])
def test_every_row_once_an_epoch(data: LatentDataset, algorithm: str) -> None:
    made = loader(data, packing=PackingConfig(budget=BUDGET, algorithm=algorithm))
    for epoch in (0, 1, 5):
        rows = [row for pack in epoch_of(made, epoch) for row in pack.indices]
        assert sorted(rows) == list(range(len(data)))


def test_rows_are_those_that_were_asked_for(data: LatentDataset) -> None:
    rows = np.array([3, 17, 4, 9])
    packs = epoch_of(loader(data, rows=rows, flip=False))
    assert sorted(row for pack in packs for row in pack.indices) == sorted(rows.tolist())
    assert len(set(data.labels[rows].tolist())) > 1
    for pack in packs:
        assert pack.labels.tolist() == data.labels[list(pack.indices)].tolist()
        for row, tokens in images_of(pack):
            torch.testing.assert_close(tokens, tokens_of(data, row))


def test_a_pack_holds_its_rows_latents_grids_and_labels(data: LatentDataset) -> None:
    assert len(set(data.labels.tolist())) > 1
    assert len({tuple(cells) for cells in data.cells.tolist()}) > 2
    for pack in epoch_of(loader(data, flip=False)):
        assert pack.layout.tokens <= BUDGET
        assert pack.layout.grids == tuple(Grid(*(data.cells[row] // PATCH).tolist()) for row in pack.indices)
        assert pack.labels.tolist() == data.labels[list(pack.indices)].tolist()
        assert pack.latents.dtype == torch.float32
        for row, tokens in images_of(pack):
            torch.testing.assert_close(tokens, tokens_of(data, row))


def flips(data: LatentDataset, packs: list[Pack]) -> dict[int, bool]:
    """Which rows are flipped; an image that is neither itself nor its flip fails."""
    found = {}
    for pack in packs:
        for row, tokens in images_of(pack):
            as_is, flipped = (torch.allclose(tokens, tokens_of(data, row, flipped=f), atol=1e-5) for f in (False, True))
            assert as_is != flipped
            found[row] = flipped
    return found


def test_flips_are_random_each_epoch_and_reproducible(data: LatentDataset) -> None:
    first, second = (flips(data, epoch_of(loader(data), epoch)) for epoch in (0, 1))
    assert first == flips(data, epoch_of(loader(data), 0))
    assert (
        len({str(sorted(found.items())) for found in (first, second, flips(data, epoch_of(loader(data, seed=1))))}) == 3
    )
    for found in (first, second):
        assert 0.1 < np.mean(list(found.values())) < 0.9
    assert not any(flips(data, epoch_of(loader(data, flip=False))).values())


def test_a_pack_is_a_function_of_seed_epoch_and_number(data: LatentDataset) -> None:
    disturbed = loader(data)
    for epoch in (4, 0, 9):
        disturbed.pack(epoch, 1)
    assert same(disturbed.pack(2, 3), loader(data).pack(2, 3))
    assert not same(disturbed.pack(2, 3), loader(data, seed=1).pack(2, 3))
    assert not same(disturbed.pack(2, 3), disturbed.pack(3, 3))


def test_a_stream_from_a_position_is_the_tail_of_the_stream_from_the_start(data: LatentDataset) -> None:
    made = loader(data)
    count = made.packs_in(0) + made.packs_in(1) + 3  # into the third epoch
    whole = stream(made, Position(epoch=0, pack=0), count)
    assert [number for _, number in whole] == list(range(count))
    inside = made.packs_in(0)
    for skip in (1, inside - 1, inside, inside + 2):
        tail = stream(loader(data), made.advance(Position(epoch=0, pack=0), skip), count - skip)
        assert [number for _, number in tail] == list(range(count - skip))
        assert all(same(a, b) for (a, _), (b, _) in zip(whole[skip:], tail, strict=True))


def test_the_stream_runs_epoch_after_epoch(data: LatentDataset) -> None:
    made = loader(data)
    count = made.packs_in(0) + made.packs_in(1)
    packs = [pack for pack, _ in stream(made, Position(epoch=0, pack=0), count)]
    assert all(same(a, b) for a, b in zip(packs, epoch_of(made, 0) + epoch_of(made, 1), strict=True))
    assert set(Counter(row for pack in packs for row in pack.indices).values()) == {2}


def test_the_stream_does_not_depend_on_its_threads(data: LatentDataset) -> None:
    one, four = (stream(loader(data), Position(epoch=1, pack=2), 20, workers=n) for n in (1, 4))
    assert all(same(a, b) and i == j for (a, i), (b, j) in zip(one, four, strict=True))


@pytest.mark.parametrize("steps", [0, 1, 3, 40])
def test_advancing_in_one_go_or_step_by_step_is_the_same(data: LatentDataset, steps: int) -> None:
    made = loader(data)
    place, epoch, number = Position(epoch=0, pack=2), 0, 2
    for _ in range(steps):
        place = made.advance(place, 1)
        epoch, number = (epoch, number + 1) if number + 1 < made.packs_in(epoch) else (epoch + 1, 0)
    assert made.advance(Position(epoch=0, pack=2), steps) == place == Position(epoch=epoch, pack=number)
    assert steps < 40 or epoch >= 2


def test_a_failure_in_a_thread_reaches_the_consumer_and_the_threads_end(data: LatentDataset) -> None:
    def finish(pack: Pack, number: int) -> int:
        if number == 2:
            raise ZeroDivisionError
        return number

    packs = loader(data).stream(Position(epoch=0, pack=0), finish)
    assert [next(packs), next(packs)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(packs)
    assert next(packs, "ended") == "ended"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("packs")]


def test_packs_are_padded_to_their_shape(data: LatentDataset) -> None:
    exact = loader(data)
    shape = pack_shape(exact.lengths, BUDGET)
    for plain, padded in zip(epoch_of(exact), epoch_of(loader(data, one_shape=True)), strict=True):
        assert padded.layout.shape == shape
        assert padded.latents.shape[0] == shape.tokens
        assert padded.labels.shape == (shape.images,)
        real = plain.layout.tokens
        assert padded.indices == plain.indices
        assert torch.equal(padded.latents[:real], plain.latents)
        assert padded.latents[real:].abs().sum() == 0
        assert torch.equal(padded.labels[: plain.layout.images], plain.labels)
        assert padded.labels[plain.layout.images :].sum() == 0


def test_long_images_are_refused_by_name_or_shrunk_and_counted(data: LatentDataset) -> None:
    longest = int(data.lengths(PATCH).max())
    budget = longest - 1
    long = data.lengths(PATCH) > budget
    assert 0 < long.sum() < len(data)
    with pytest.raises(DataError) as raised:
        loader(data, packing=PackingConfig(budget=budget))
    assert data.sources[int(data.lengths(PATCH).argmax())] in raised.value.got
    made = loader(data, packing=PackingConfig(budget=budget, oversize="shrink"), flip=False)
    assert made.shrunk == long.sum()
    packs = epoch_of(made)
    assert sorted(row for pack in packs for row in pack.indices) == list(range(len(data)))
    for pack in packs:
        assert pack.layout.tokens <= budget
        for row, tokens in images_of(pack):
            if not long[row]:
                torch.testing.assert_close(tokens, tokens_of(data, row))
    assert loader(data).shrunk == 0


def test_a_shrunk_latent_is_the_same_picture(data: LatentDataset) -> None:
    """Its mean stays, and what was left stays left."""
    budget = int(data.lengths(PATCH).max()) - 1
    made = loader(data, packing=PackingConfig(budget=budget, oversize="shrink"), flip=False)
    long = set(np.flatnonzero(data.lengths(PATCH) > budget).tolist())
    agreement = []
    for pack in epoch_of(made):
        for grid, (row, tokens) in zip(pack.layout.grids, images_of(pack), strict=True):
            if row not in long:
                continue
            small = rearrange(tokens, "(h w) (c p q) -> c (h p) (w q)", h=grid.height, p=PATCH, q=PATCH)[:1]
            height, width = data.cells[row].tolist()
            own = rearrange(data.read(row), "(h w) c -> 1 c h w", h=height, w=width)[:, :1]
            wanted = torch.nn.functional.adaptive_avg_pool2d(own, small.shape[1:])[0]
            agreement.append(torch.corrcoef(torch.stack([small.flatten(), wanted.flatten()]))[0, 1])
            mirrored = torch.corrcoef(torch.stack([small.flip(2).flatten(), wanted.flatten()]))[0, 1]
            assert agreement[-1] > mirrored
    assert len(agreement) == len(long)
    assert min(agreement) > 0.8


def test_a_patch_that_does_not_divide_an_image_is_refused(data: LatentDataset) -> None:
    with pytest.raises(DataError, match="--multiple-of-cells 3"):
        loader(data, patch=3)
