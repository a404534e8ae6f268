import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from anyres.config import from_dict
from anyres.errors import ConfigError
from anyres.grid import Grid
from anyres.model.rope import RotaryMode, RotaryScaling, rotary_tables, rotate
from anyres.packing.pack import PackLayout
from tests.parity.compare import LIMIT, relative_error

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "extrap.safetensors")
CASES = sorted({name.rsplit(".", 1)[0] for name in GOLDEN if not name.startswith("positions.")})


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
def test_extrapolated_tables_equal_the_released_ones(case: str) -> None:
    match = re.fullmatch(r"d(\d+)\.(\d+)x(\d+)\.train(\d+)\.(.+)\.(coupled|decoupled)", case)
    assert match is not None
    head_dim, height, width, length = map(int, match.groups()[:4])
    scaling = RotaryScaling(mode=match[5], trained_side=length, decoupled=match[6] == "decoupled")
    tables = rotary_tables(PackLayout.from_grids([Grid(height, width)]), head_dim, "row_major", scaling)
    tokens = GOLDEN[f"positions.{height}x{width}"]
    for name, ours in (("cos", tables.cos), ("sin", tables.sin)):
        assert relative_error(ours[tokens].repeat_interleave(2, dim=1), GOLDEN[f"{case}.{name}"]) <= LIMIT


def test_golden_cases_cover_every_mode_both_ways() -> None:
    covered = {tuple(case.split(".")[3:5]) for case in CASES}
    assert {mode for mode, _ in covered} == set(RotaryMode.__args__)
    assert {way for _, way in covered} == {"coupled", "decoupled"}


@given(st.integers(1, 9), st.integers(1, 9))
def test_orders_differ_only_where_the_released_code_is_wrong(height: int, width: int) -> None:
    layout = PackLayout.from_grids([Grid(height, width)])
    right = rotary_tables(layout, 8, "row_major")
    released = rotary_tables(layout, 8, "column_major")
    n = torch.arange(height * width)
    rows, columns = n % height, n // height  # what the released code believes of token n
    by_place = {(int(r), int(c)): i for i, (r, c) in enumerate(zip(n // width, n % width, strict=True))}
    for token, place in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        torch.testing.assert_close(released.cos[token], right.cos[by_place[place]])
        torch.testing.assert_close(released.sin[token], right.sin[by_place[place]])


@pytest.mark.float64
def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 16, generator=generator, dtype=torch.float64)
    tables = rotary_tables(PackLayout.from_grids([Grid(5, 7)]), 16, "row_major")
    rotated_q, rotated_k = (rotate(x.expand(35, 1, 16), tables)[:, 0] for x in (q, k))
    torch.testing.assert_close(rotated_q.norm(dim=1), q[0].norm().expand(35), rtol=1e-6, atol=0)
    scores = rotated_q @ rotated_k.T
    # tokens 0 → 9 and 11 → 20 are both one row down and two columns right
    torch.testing.assert_close(scores[0, 9], scores[11, 20], rtol=1e-6, atol=1e-6)
    assert not math.isclose(scores[0, 9], scores[9, 0], rel_tol=1e-3)


def test_each_image_of_a_pack_is_scaled_by_its_own_size() -> None:
    scaling = RotaryScaling(mode="ntk-aware-pro2", trained_side=16)
    grids = [Grid(40, 24), Grid(8, 8), Grid(30, 10)]
    packed = PackLayout.from_grids(grids)
    tables = rotary_tables(packed, 24, "row_major", scaling)
    for grid, cos in zip(grids, packed.split(tables.cos), strict=True):
        alone = rotary_tables(PackLayout.from_grids([grid]), 24, "row_major", scaling)
        torch.testing.assert_close(cos, alone.cos, rtol=0, atol=0)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="ntk-aware"):
        from_dict(RotaryScaling, {"mode": "ntk", "trained_side": 16})
