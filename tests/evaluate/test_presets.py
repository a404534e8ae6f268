"""The published settings and results, against the paper's table."""

import pytest

from anyres.evaluate.presets import IMAGES, PRESETS
from anyres.grid import Size

# height, width, solver, steps, scale, greatest t of guidance, FID, sFID, IS, precision, recall
TABLE = """
256 256 sde 250 2.25 0.7 2.16 6.34 253.44 0.79 0.62
512 512 sde 250 2.05 0.7 1.57 4.13 260.69 0.81 0.63
768 768 euler 50 3.0 0.7 4.05 8.77 262.31 0.83 0.52
1024 1024 euler 50 3.0 0.8 4.52 7.99 286.87 0.82 0.50
1536 1536 euler 50 3.5 0.9 6.51 9.97 230.10 0.83 0.42
2048 2048 euler 50 4.5 0.9 24.76 18.02 131.36 0.67 0.46
320 960 euler 50 4.0 0.9 16.85 17.79 189.18 0.71 0.38
432 768 euler 50 2.75 0.7 4.11 10.30 254.71 0.83 0.55
480 640 euler 50 2.75 0.7 3.72 8.23 284.94 0.83 0.54
640 480 euler 50 2.5 0.7 3.41 8.07 259.06 0.83 0.56
768 432 euler 50 2.85 0.7 5.27 9.92 218.78 0.80 0.55
960 320 euler 50 4.5 0.9 9.90 25.78 255.95 0.74 0.40
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=[f"{row[1]}x{row[0]}" for row in ROWS])
def test_each_preset_is_a_row_of_the_table_at_sides_floored_to_tokens(row):
    height, width = int(row[0]), int(row[1])
    made = Size(height // 32 * 32, width // 32 * 32)
    preset = PRESETS[f"nit-{made.width}x{made.height}"]
    settings = preset.settings
    assert preset.size == made
    assert (settings.solver, settings.steps) == (row[2], int(row[3]))
    assert (settings.guidance, settings.guidance_low, settings.guidance_high) == (float(row[4]), 0, float(row[5]))
    results = (preset.fid, preset.sfid, preset.inception_score, preset.precision, preset.recall)
    assert results == tuple(map(float, row[6:]))
    assert preset.named == (None if made == Size(height, width) else f"{height} × {width}")


def test_there_are_no_others_and_they_are_of_50_000_images():
    assert len(PRESETS) == len(ROWS) == 12
    assert IMAGES == 50_000
    assert "at 50,000 images" in str(PRESETS["nit-256x256"])


def test_a_size_that_was_floored_is_stated_as_it_was():
    """432 is no multiple of 32: those images had 416 rows."""
    wide, tall = PRESETS["nit-768x416"], PRESETS["nit-416x768"]
    assert (wide.size, wide.named) == (Size(416, 768), "432 × 768")
    assert (tall.size, tall.named) == (Size(768, 416), "768 × 432")
    assert str(wide).startswith("768x416 (published as 432 × 768")
    assert [name for name, preset in PRESETS.items() if preset.named] == ["nit-768x416", "nit-416x768"]


def test_only_the_two_of_the_training_take_the_stochastic_solver():
    """And every setting is its own: no two rows were written as one."""
    assert [name for name, preset in PRESETS.items() if preset.settings.solver == "sde"] == [
        "nit-256x256",
        "nit-512x512",
    ]
    assert len({(preset.fid, preset.recall) for preset in PRESETS.values()}) == 12
