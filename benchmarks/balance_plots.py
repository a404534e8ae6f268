"""What `balance` found: tables of differences from weighing by token, with intervals, and a plot.

    python -m benchmarks balance_plots [RESULTS] --out FOLDER

Differences are in % of the loss of "by token", of the same seed. An interval is of 95%, by a bootstrap over held-out
images and seeds.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from anyres.plotting import new_figure
from anyres.tables import aligned

from .recording import RESULTS

BASE = "by token"
DRAWS = 2000
BUCKETS = {"to 128": (1, 128), "129 to 256": (129, 256), "257 to 512": (257, 512), "over 512": (513, 10**9)}  # tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS / "balance.json")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = json.loads(options.results.read_text())["results"]
    options.out.mkdir(parents=True, exist_ok=True)
    groups, arms = weights(found), losses(found)
    differences = {arm: {name: excess(found, arms, arm, w) for name, w in groups.items()} for arm in arms}
    print(aligned(loss_rows(groups, arms, differences)), "\n")
    print(aligned(time_rows(found, arms)), "\n")
    if any(run["kid"] for run in found["runs"]):
        print(aligned(kid_rows(found)))
    figure, (left, right) = new_figure(1, 2, width=6.4, height=4.2)
    draw_sizes(left, differences)
    draw_times(right, arms, groups["each token"])
    figure.savefig(options.out / "balance.png")


def losses(found: dict[str, Any]) -> dict[str, np.ndarray]:
    """Of each arm: (seeds, versions, times), of the seeds that all arms have."""
    arms: dict[str, dict[int, Any]] = {}
    for run in found["runs"]:
        arms.setdefault(run["arm"], {})[run["seed"]] = run["losses"]
    seeds = sorted(set.intersection(*(set(of_seed) for of_seed in arms.values())))
    return {arm: np.array([of_seed[seed] for seed in seeds]) for arm, of_seed in arms.items()}


def weights(found: dict[str, Any]) -> dict[str, np.ndarray]:
    """Of each held-out version, in each of the means that are reported."""
    tokens = np.array([version["tokens"] for version in found["versions"]])
    sizes = {name: ((tokens >= low) & (tokens <= high)).astype(float) for name, (low, high) in BUCKETS.items()}
    means = {"each token": tokens.astype(float), "each image": np.ones(len(tokens))}
    return means | {name: inside for name, inside in sizes.items() if inside.any()}


def excess(found: dict[str, Any], arms: dict[str, np.ndarray], arm: str, weight: np.ndarray) -> np.ndarray:
    """The loss of an arm over that of the base, less 1, and its interval."""
    _, image = np.unique([version["image"] for version in found["versions"]], return_inverse=True)
    ours, base = arms[arm].mean(axis=2), arms[BASE].mean(axis=2)
    rng, draws = np.random.default_rng(0), []
    for _ in range(DRAWS):
        of_image = np.bincount(rng.integers(image.max() + 1, size=image.max() + 1), minlength=image.max() + 1)[image]
        seeds = rng.integers(len(ours), size=len(ours))
        drawn = weight * of_image
        if drawn.any():  # a group of few images may be without any
            draws.append((ours[seeds] @ drawn).sum() / (base[seeds] @ drawn).sum() - 1)
    return np.array([(ours @ weight).sum() / (base @ weight).sum() - 1, *np.percentile(draws, [2.5, 97.5])])


def loss_rows(
    groups: dict[str, np.ndarray], arms: dict[str, np.ndarray], differences: dict[str, dict[str, np.ndarray]]
) -> list[list[str]]:
    rows = [["loss, at even times", *groups]]
    base = arms[BASE].mean(axis=(0, 2))
    rows.append([BASE, *(f"{base @ weight / weight.sum():.4f}" for weight in groups.values())])
    for arm in arms:
        if arm != BASE:
            cells = (
                f"{100 * v:+.1f}% [{100 * low:+.1f}, {100 * high:+.1f}]" for v, low, high in differences[arm].values()
            )
            rows.append([arm, *cells])
    return rows


def time_rows(found: dict[str, Any], arms: dict[str, np.ndarray]) -> list[list[str]]:
    """The difference at each time, of the smaller and of the larger half of the images."""
    tokens = np.array([version["tokens"] for version in found["versions"]])
    times = arms[BASE].shape[2]
    rows = [["at t =", *(f"{(part + 0.5) / times:.2f}" for part in range(times))]]
    for name, inside in (("up to 256 tokens", tokens <= 256), ("more", tokens > 256)):
        base = arms[BASE][:, inside].mean(axis=(0, 1))
        for arm, values in arms.items():
            of_arm = values[:, inside].mean(axis=(0, 1))
            cells = base if arm == BASE else 100 * (of_arm / base - 1)
            rows.append([f"{arm}, {name}", *(f"{v:.3f}" if arm == BASE else f"{v:+.1f}%" for v in cells)])
    return rows


def kid_rows(found: dict[str, Any]) -> list[list[str]]:
    """Mean over seeds, and their spread."""
    arms: dict[str, list[dict[str, Any]]] = {}
    for run in found["runs"]:
        arms.setdefault(run["arm"], []).append(run["kid"])
    names = list(dict.fromkeys(name for run in found["runs"] for name in run["kid"]))
    rows = [["KID", *names]]
    for arm, runs in arms.items():
        values = [np.array([run[name]["value"] for run in runs if name in run]) for name in names]
        rows.append([arm, *(f"{v.mean():.4f} ± {v.std(ddof=1):.4f}" if len(v) > 1 else "" for v in values)])
    return rows


def draw_sizes(axes: Any, differences: dict[str, dict[str, np.ndarray]]) -> None:
    """Each arm's difference by size."""
    names = list(next(iter(differences.values())))
    for number, (arm, of_group) in enumerate((a, d) for a, d in differences.items() if a != BASE):
        values = 100 * np.array([of_group[name] for name in names])
        place = np.arange(len(names)) + 0.11 * (number - (len(differences) - 2) / 2)
        bars = np.abs(values[:, 1:] - values[:, :1]).T
        axes.errorbar(place, values[:, 0], bars, fmt="o", markersize=4, linewidth=1, label=arm)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set(title="held-out loss against weighing by token", ylabel="difference, %", xlabel="tokens of the image")
    axes.legend(fontsize=7)


def draw_times(axes: Any, arms: dict[str, np.ndarray], weight: np.ndarray) -> None:
    """Each arm's difference by time, of all tokens."""
    of_arm = {arm: np.einsum("svt,v->t", values, weight) / len(values) for arm, values in arms.items()}
    times = (np.arange(len(of_arm[BASE])) + 0.5) / len(of_arm[BASE])
    for arm, values in of_arm.items():
        if arm != BASE:
            axes.plot(times, 100 * (values / of_arm[BASE] - 1), "o-", markersize=3, linewidth=1, label=arm)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(title="of all tokens, by time", xlabel="t (1 is noise)")
