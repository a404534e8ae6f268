"""px ↔ cells ↔ tokens, the native resize rule, and row-major order."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyres.errors import ConfigError, DataError
from anyres.grid import Cells, Grid, Size, coordinates, native_size, patchify, unpatchify, unpatchify_each

RELEASED = json.loads((Path(__file__).parent / "golden" / "resize.json").read_text())
sides = st.integers(1, 6)


@pytest.mark.parametrize("row", RELEASED["rows"], ids=lambda row: f"{row['width']}x{row['height']}")
def test_native_size_is_the_released_rule(row: dict[str, int]) -> None:
    found = native_size(
        Size(row["height"], row["width"]), RELEASED["multiple_of"], RELEASED["max_side_of_equal_area_square"]
    )
    assert found == Size(row["resized_height"], row["resized_width"])


def test_the_released_sizes_reach_every_branch() -> None:
    rows = RELEASED["rows"]
    assert len(rows) == 79
    assert any(min(row["height"], row["width"]) < RELEASED["multiple_of"] for row in rows)
    assert any(row["height"] * row["width"] > RELEASED["max_side_of_equal_area_square"] ** 2 for row in rows)
    assert any(row["height"] > row["width"] for row in rows)
    assert any(row["height"] < row["width"] for row in rows)


@settings(deadline=None)
@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([8, 16, 32]), st.sampled_from([64, 512, 2048]))
def test_native_sizes_are_multiples_of_about_the_shape_within_the_area(
    height: int, width: int, multiple: int, limit: int
) -> None:
    size = native_size(Size(height, width), multiple, limit)
    assert size.height % multiple == size.width % multiple == 0
    scale = min(1.0, limit / (height * width) ** 0.5)
    for found, exact in ((size.height, height * scale), (size.width, width * scale)):
        assert max(multiple, exact - multiple - 1e-6) <= max(found, multiple)
        assert found <= max(multiple, exact + 1e-6)


@settings(deadline=None)
@given(sides, sides, st.integers(1, 4), st.integers(1, 5))
def test_unpatchify_inverts_patchify(height: int, width: int, patch: int, channels: int) -> None:
    grid = Grid(height, width)
    cells = grid.cells(patch)
    latent = torch.arange(cells.area * channels, dtype=torch.float32).reshape(cells.area, channels)
    tokens = patchify(latent, cells, patch)
    assert tokens.shape == (grid.tokens, channels * patch**2)
    as_map = unpatchify(tokens, grid, patch)
    assert as_map.shape == (channels, cells.height, cells.width)
    assert torch.equal(as_map.flatten(1).T, latent)


def test_images_end_to_end_come_apart() -> None:
    grids = [Grid(2, 3), Grid(2, 3), Grid(3, 2), Grid(2, 3), Grid(1, 1)]
    maps = [torch.randn(4, 2 * grid.height, 2 * grid.width) for grid in grids]
    tokens = torch.cat([patchify(each.flatten(1).T, grid.cells(2), 2) for each, grid in zip(maps, grids, strict=True)])
    made = unpatchify_each(tokens, grids, 2)
    assert len(made) == len(maps)
    assert all(torch.equal(one, other) for one, other in zip(made, maps, strict=True))


@settings(deadline=None)
@given(sides, sides, st.integers(1, 3), st.integers(1, 4))
def test_patchify_is_the_slow_loop(height: int, width: int, patch: int, channels: int) -> None:
    grid = Grid(height, width)
    cells = grid.cells(patch)
    latent = torch.rand(cells.area, channels)
    slow = torch.empty(grid.tokens, channels * patch**2)
    for row, column in itertools.product(range(height), range(width)):
        for c, p, q in itertools.product(range(channels), range(patch), range(patch)):
            cell = (row * patch + p) * cells.width + column * patch + q
            slow[row * width + column, (c * patch + p) * patch + q] = latent[cell, c]
    assert torch.equal(patchify(latent, cells, patch), slow)


def test_coordinates_of_a_grid_that_is_not_square() -> None:
    found = coordinates(Grid(2, 3))
    assert found.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert found.dtype == torch.int32


@settings(deadline=None)
@given(sides, sides)
def test_a_token_stands_where_its_coordinates_say(height: int, width: int) -> None:
    grid = Grid(height, width)
    numbers = torch.arange(grid.tokens, dtype=torch.float32)[:, None]
    as_map = unpatchify(numbers, grid, 1)[0]
    rows, columns = coordinates(grid).long().T
    assert torch.equal(as_map[rows, columns], numbers[:, 0])


@settings(deadline=None)
@given(st.integers(1, 10**5), st.integers(1, 10**5))
def test_a_written_size_is_width_first_and_comes_back(height: int, width: int) -> None:
    assert str(Size(height, width)) == f"{width}x{height}"
    assert Size.parse(str(Size(height, width))) == Size(height, width)


@pytest.mark.parametrize("text", ["64x32", " 64 x 32 ", "64X32", "64×32"])
def test_sizes_are_read_in_several_spellings(text: str) -> None:
    assert Size.parse(text) == Size(height=32, width=64)


def test_one_number_is_a_square() -> None:
    assert Size.parse("96") == Size(96, 96)


@pytest.mark.parametrize("text", ["big", "", "x", "64x", "x64", "64x32x3", "-64x32", "6.4x32", "64 32"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="WIDTHxHEIGHT"):
        Size.parse(text)


@pytest.mark.parametrize("text", ["0", "0x32", "32x0"])
def test_a_side_of_zero_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="at least 1 px"):
        Size.parse(text)


@pytest.mark.parametrize("kind", [Size, Cells, Grid])
@pytest.mark.parametrize(("height", "width"), [(0, 3), (3, 0), (-1, 3)])
def test_no_extent_is_empty(kind: type, height: int, width: int) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        kind(height, width)


def test_px_to_cells_to_tokens_and_back() -> None:
    size = Size(64, 96)
    assert size.cells(8) == Cells(8, 12)
    assert size.cells(8).grid(2) == Grid(4, 6) == size.grid(16)
    assert Grid(4, 6).cells(2) == Cells(8, 12)
    assert Cells(8, 12).size(8) == size
    assert Grid(4, 6).tokens == 24


def test_the_three_units_are_three_types() -> None:
    assert len({Size(2, 3), Cells(2, 3), Grid(2, 3)}) == 3
    assert Size(2, 3) != Cells(2, 3)
    assert Cells(2, 3) != Grid(2, 3)


@pytest.mark.parametrize("convert", [Size.cells, Size.grid])
@settings(deadline=None)
@given(height=st.integers(1, 200), width=st.integers(1, 200), multiple=st.integers(2, 32))
def test_a_size_that_is_no_multiple_names_the_nearest_that_are(convert, height: int, width: int, multiple: int) -> None:
    if height % multiple == width % multiple == 0:
        convert(Size(height, width), multiple)
        return
    with pytest.raises(ConfigError, match=f"multiples of {multiple} px") as raised:
        convert(Size(height, width), multiple)
    named = [Size.parse(text) for text in raised.value.fix.split(",")[0].removeprefix("use ").split(" or ")]
    for size in named:
        assert size.height % multiple == size.width % multiple == 0
        assert abs(size.height - height) < multiple
        assert abs(size.width - width) < multiple
    # the nearest stands first, and is what --round-size takes, but for ties
    first, rounded = named[0], Size(height, width).rounded(multiple)
    distance = [abs(s.height - height) + abs(s.width - width) for s in (first, rounded)]
    assert distance[0] == distance[1]
    assert len(set(named)) == len(named)


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 64))
def test_rounding_takes_the_nearest_multiple_but_never_zero(side: int, multiple: int) -> None:
    found = Size(side, side).rounded(multiple).height
    assert found == min(range(multiple, side + 2 * multiple, multiple), key=lambda m: (abs(m - side), -m))


def test_a_latent_that_the_patch_does_not_divide_is_refused() -> None:
    with pytest.raises(DataError, match="--multiple-of-cells 2"):
        Cells(4, 3).grid(2)
    with pytest.raises(DataError, match="patch size 2"):
        patchify(torch.zeros(12, 1), Cells(4, 3), 2)
