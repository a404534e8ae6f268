"""The plot of docs/performance.md: how XL's step grows with the pack, and with the size of its images.

    python -m benchmarks sizes_plot [--results FILE] [--out FILE]

Reads `sizes.json`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyres.plotting import new_figure

from .recording import RESULTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS / "sizes.json")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "images" / "growth.png")
    options = parser.parse_args()
    found = json.loads(options.results.read_text())["results"]
    figure, [speed, memory, images] = new_figure(1, 3, width=3.7, height=2.9)
    most = max(row["recomputed_blocks"] for row in found["growth"])
    least = {}
    for row in found["growth"]:
        least.setdefault(row["tokens"], row)
    lines = {
        "as few blocks recomputed as fit": list(least.values()),
        f"{most} blocks recomputed": [row for row in found["growth"] if row["recomputed_blocks"] == most],
    }
    for name, rows in lines.items():
        curve(speed, rows, "tokens", "tokens_a_second", name)
        curve(memory, rows, "tokens", "memory_gib", name)
    curve(images, [row | {"tokens": row["side"] ** 2} for row in found["images"]], "tokens", "tokens_a_second", None)
    for axes, across, up in (
        (speed, "tokens of a pack", "tokens/s"),
        (memory, "tokens of a pack", "memory, GiB"),
        (images, f"tokens of an image, in packs of {found['images'][0]['tokens']:,}", "tokens/s"),
    ):
        axes.set_xscale("log", base=4)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.tick_params(labelsize=7)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    memory.legend(fontsize=7, frameon=False)
    figure.savefig(options.out)


def curve(axes: Any, rows: Sequence[dict], across: str, up: str, name: str | None) -> None:
    """One value of the rows over another; a CPU has no memory to show."""
    kept = [row for row in rows if up in row]
    axes.plot([row[across] for row in kept], [row[up] for row in kept], marker="o", markersize=3, label=name)
