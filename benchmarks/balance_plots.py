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
    found = complete(json.loads(options.results.read_text())["results"])
    options.out.mkdir(parents=True, exist_ok=True)
    groups, arms = weights(found), losses(found)
    differences = {arm: {name: excess(found, arms, arm, w) for name, w in groups.items()} for arm in arms}
    print(aligned(loss_rows(groups, arms, differences)), "\n")
    print(aligned(time_rows(found, arms)), "\n")
    print(aligned(curve_rows(found)), "\n")
    print(aligned(cost_rows(found)), "\n")
    has_kid = all(run["kid"] for run in found["runs"])
    if has_kid:
        print(aligned(kid_rows(found)))
    figure, axes = new_figure(1, 3 if has_kid else 2, width=6.4, height=4.2)
    draw_sizes(axes[0], differences)
    draw_times(axes[1], arms, groups["each token"])
    if has_kid:
        draw_kids(axes[2], kids(found))
    figure.savefig(options.out / "balance.png")


def complete(found: dict[str, Any]) -> dict[str, Any]:
    """The study with the runs of those seeds alone that all arms have."""
    arms: dict[str, set[int]] = {}
    for run in found["runs"]:
        arms.setdefault(run["arm"], set()).add(run["seed"])
    seeds = set.intersection(*arms.values())
    return found | {"runs": [run for run in found["runs"] if run["seed"] in seeds]}


def of_arms(found: dict[str, Any], what: str) -> dict[str, list[Any]]:
    """What was found of each arm's models, by seed."""
    arms: dict[str, list[Any]] = {}
    for run in sorted(found["runs"], key=lambda run: run["seed"]):
        arms.setdefault(run["arm"], []).append(run[what])
    return arms


def losses(found: dict[str, Any]) -> dict[str, np.ndarray]:
    """Of each arm: (seeds, versions, times)."""
    return {arm: np.array(of_seed) for arm, of_seed in of_arms(found, "losses").items()}


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


def cost_rows(found: dict[str, Any]) -> list[list[str]]:
    """What a model has seen, and how long it took; means over seeds."""
    rows = [["", "images", "tokens", "ms a step", "ms an image", "s in all"]]
    columns = [of_arms(found, name) for name in ("images", "tokens", "seconds_per_step", "seconds")]
    for arm in columns[0]:
        images, tokens, a_step, seconds = (np.mean(column[arm]) for column in columns)
        an_image = 1000 * a_step * found["steps"] / images
        rows.append(
            [arm, f"{images:,.0f}", f"{tokens:,.0f}", f"{1000 * a_step:.1f}", f"{an_image:.3f}", f"{seconds:.0f}"]
        )
    return rows


def curve_rows(found: dict[str, Any]) -> list[list[str]]:
    """The difference in held-out loss while training goes on, of all tokens at the times that each arm trains at."""
    curves = of_arms(found, "held_out_as_trained")
    base = np.mean(curves[BASE], axis=0)
    rows = [["at step", *(f"{step:,.0f}" for step in base[:, 0])], [BASE, *(f"{loss:.4f}" for loss in base[:, 1])]]
    for arm, of_seed in curves.items():
        if arm != BASE:
            of_arm = np.mean(of_seed, axis=0)[:, 1]
            rows.append([arm, *(f"{100 * (v / b - 1):+.1f}%" for v, b in zip(of_arm, base[:, 1], strict=True))])
    return rows


def kids(found: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Of each arm and size: (seeds, 1 + draws) KID, the whole and then of pictures drawn anew; and of all sizes."""
    arms: dict[str, dict[str, np.ndarray]] = {}
    for arm, of_seed in of_arms(found, "kid").items():
        sizes = {
            name: np.array([[kid[name]["value"], *kid[name]["replicates"]] for kid in of_seed]) for name in of_seed[0]
        }
        moved = [values for name, values in sizes.items() if "unmoved" not in name]
        unmoved = [values for name, values in sizes.items() if "unmoved" in name]
        arms[arm] = sizes | {"mean": np.mean(moved, axis=0)}
        if unmoved:
            arms[arm]["mean at unmoved times"] = np.mean(unmoved, axis=0)
    return arms


def kid_excess(ours: np.ndarray, base: np.ndarray) -> np.ndarray:
    """KID less that of the base, of the same seeds, and its interval over pictures and seeds."""
    rng, differences = np.random.default_rng(0), ours - base
    seeds = rng.integers(len(ours), size=(DRAWS, len(ours)))
    draws = rng.integers(1, ours.shape[1], size=DRAWS)
    means = differences[seeds, draws[:, None]].mean(axis=1)
    return np.array([differences[:, 0].mean(), *np.percentile(means, [2.5, 97.5])])


def kid_rows(found: dict[str, Any]) -> list[list[str]]:
    """KID of the base by size, and the others' differences, with those of each seed in all sizes."""
    arms = kids(found)
    base = arms[BASE]
    rows = [["KID", *base, "by seed"], [BASE, *(f"{values[:, 0].mean():.4f}" for values in base.values()), ""]]
    for arm, sizes in arms.items():
        for ending in ("", " at unmoved times"):
            if arm == BASE or f"mean{ending}" not in sizes:
                continue
            cells = (kid_excess(sizes[f"{size}{ending}"], base[size]) for size in base)
            by_seed = (sizes[f"mean{ending}"] - base["mean"])[:, 0]
            rows.append(
                [
                    f"{arm}{ending}",
                    *(f"{v:+.4f} [{low:+.4f}, {high:+.4f}]" for v, low, high in cells),
                    ", ".join(f"{v:+.4f}" for v in by_seed),
                ]
            )
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


def draw_kids(axes: Any, arms: dict[str, dict[str, np.ndarray]]) -> None:
    """Each arm's difference in KID by size."""
    for number, (arm, sizes) in enumerate((a, s) for a, s in arms.items() if a != BASE):
        values = np.array([kid_excess(sizes[size], base) for size, base in arms[BASE].items()])
        place = np.arange(len(values)) + 0.11 * (number - (len(arms) - 2) / 2)
        bars = np.abs(values[:, 1:] - values[:, :1]).T
        axes.errorbar(place, values[:, 0], bars, fmt="o", markersize=4, linewidth=1, label=arm)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(arms[BASE])), list(arms[BASE]), fontsize=8)
    axes.set(title="KID against weighing by token", ylabel="difference", xlabel="size, px")


def draw_times(axes: Any, arms: dict[str, np.ndarray], weight: np.ndarray) -> None:
    """Each arm's difference by time, of all tokens."""
    of_arm = {arm: np.einsum("svt,v->t", values, weight) / len(values) for arm, values in arms.items()}
    times = (np.arange(len(of_arm[BASE])) + 0.5) / len(of_arm[BASE])
    for arm, values in of_arm.items():
        if arm != BASE:
            axes.plot(times, 100 * (values / of_arm[BASE] - 1), "o-", markersize=3, linewidth=1, label=arm)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(title="of all tokens, by time", xlabel="t (1 is noise)")
