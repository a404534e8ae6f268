"""The plot of docs/performance.md: a training step by kind of kernel, before and now, and its floor.

    python -m benchmarks training_plot [--results FOLDER] [--out FILE]

Reads `training_before.json` and `training.json`.
"""

import argparse
import json
from pathlib import Path

from anyres.plotting import new_figure

from .recording import RESULTS

COLOURS = {
    "products": "#3b5b92",
    "attention": "#6f9bd1",
    "norms and modulation": "#8fbf9f",
    "rotation": "#e0a458",
    "GELU": "#c96f53",
    "optimizer": "#8d6a9f",
    "copies and casts": "#b0b0b0",
    "other": "#d9d9d9",
}
# what each part of the floor's traffic belongs to, by a word of its reason
OF_TRAFFIC = {"residual": "norms and modulation", "rotation": "rotation", "GELU": "GELU"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "images" / "performance.png")
    options = parser.parse_args()
    before, now = (
        json.loads((options.results / name).read_text())["results"]
        for name in ("training_before.json", "training.json")
    )
    bars = {"before": measured(before), "now": measured(now), "floor": floor_of(now["floor"])}
    figure, [axes] = new_figure(1, 1, width=9, height=2.8)
    for row, parts in enumerate(bars.values()):
        left = 0.0
        for kind, colour in COLOURS.items():
            ms = parts.get(kind, 0.0)
            axes.barh(row, ms, left=left, color=colour, label=kind if row == 0 else None, height=0.62)
            if ms > 5:
                axes.text(left + ms / 2, row, f"{ms:.0f}", ha="center", va="center", fontsize=8, color="white")
            left += ms
        axes.text(left + 1.5, row, f"{left:.0f} ms", va="center", fontsize=9)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * sum(bars["before"].values()))
    axes.set_xlabel(f"ms of device time a step: {now['preset'].upper()}, {now['pack']['tokens']:,} tokens, one H100")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncol=8, fontsize=7, loc="lower center", bbox_to_anchor=(0.46, 1.0), frameon=False, columnspacing=1)
    figure.savefig(options.out)


def measured(results: dict) -> dict[str, float]:
    """Ms of each kind in a profile."""
    return {kind: found["ms"] for kind, found in results["ours"]["profile"]["kinds"].items()}


def floor_of(floor: dict) -> dict[str, float]:
    """Ms of each kind in a floor."""
    parts = {"products": floor["products_ms"], "attention": floor["attention_ms"]}
    for why, ms in floor["traffic"].items():
        kind = next((kind for word, kind in OF_TRAFFIC.items() if word in why), "optimizer")
        parts[kind] = parts.get(kind, 0.0) + ms
    return parts
