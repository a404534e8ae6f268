"""How evenly the packs of a step are dealt to ranks: whole packs as they come, and after images are exchanged.

    OMP_NUM_THREADS=1 python -m benchmarks dealing [--images N] [--out FILE]

Imbalance is how much longer the costliest rank of a step computes than all would if they were even, by the operations
of the `xl` network. Lengths: those of `packing.py`, and as many of each octave from 16 to 4,096 tokens.

"Bound" is the imbalance that no exchange can avoid within the budget: the other packs hold at most their budget, so the
pack with the step's longest image holds the rest of its tokens, and these can at best be the step's smallest images.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from anyres.model.config import NiTConfig
from anyres.packing.algorithms import shuffled_best_fit
from anyres.packing.dealing import deal, even_packs

from .packing import mixes
from .recording import RESULTS, record

COST = NiTConfig.preset("xl", num_classes=1000).image_flops
BUDGETS = (16384, 65536)
RANKS = ((2, 1), (8, 1), (8, 2))  # and packs of each in a step


def imbalance(costs: list[float], ranks: int) -> float:
    """Of packs of these costs, dealt."""
    loads = np.array([sum(costs[pack] for pack in hand) for hand in deal(costs, ranks)])
    return float(loads.max() / loads.mean() - 1)


def bound(step: list[np.ndarray], lengths: np.ndarray, budget: int) -> float:
    """The least imbalance of a step whose ranks take a pack each."""
    *rest, longest = np.sort(lengths[np.concatenate(step)]).tolist()
    wanted = sum(rest) - (len(step) - 1) * budget  # tokens beside the longest image
    least = float(COST(np.array([longest]))[0])
    for tokens in rest:
        if wanted <= 0:
            break
        least += float(COST(np.array([tokens]))[0]) * min(1.0, wanted / tokens)  # the last in part
        wanted -= tokens
    return max(0.0, least * len(step) / float(COST(np.array([*rest, longest])).sum()) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "dealing.json")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    all_lengths = mixes(options.images, rng)
    octaves = np.exp(rng.uniform(np.log(16), np.log(4096), options.images // 4))
    all_lengths["all octaves"] = octaves.astype(np.int64)
    results = []
    print(
        f"{'lengths':15} {'budget':>6} {'ranks':>5} {'each':>5}  whole packs   exchanged: mean, 99%, most  ms a step  ",
        end="",
    )
    print("bound: most   steps above 2%, and their bounds")
    for mix, lengths in all_lengths.items():
        for budget in BUDGETS:
            packs = shuffled_best_fit(lengths, budget, np.random.default_rng(0))
            for ranks, each in RANKS:
                in_step = ranks * each
                whole, exchanged, bounds, seconds = [], [], [], 0.0
                for first in range(0, len(packs) - in_step + 1, in_step):
                    step = [packs[number] for number in range(first, first + in_step)]
                    start = time.perf_counter()
                    even = even_packs(step, lengths, COST, budget)
                    seconds += time.perf_counter() - start
                    bounds.append(bound(step, lengths, budget) if each == 1 else 0.0)
                    for packed, found in ((step, whole), (even, exchanged)):
                        found.append(imbalance([float(COST(lengths[pack]).sum()) for pack in packed], ranks))
                if not whole:  # too few images for one step
                    continue
                row = {
                    "lengths": mix,
                    "budget": budget,
                    "ranks": ranks,
                    "packs_of_each": each,
                    "steps": len(whole),
                    "imbalance_of_whole_packs": round(float(np.mean(whole)), 4),
                    "imbalance": round(float(np.mean(exchanged)), 4),
                    "imbalance_99th_percentile": round(float(np.quantile(exchanged, 0.99)), 4),
                    "imbalance_most": round(max(exchanged), 4),
                    "ms_a_step": round(1e3 * seconds / len(whole), 1),
                }
                said = ""
                if each == 1:  # the bound is of a pack
                    row["bound_most"] = round(max(bounds), 4)
                    row["steps_above_2_percent"] = sum(found > 0.02 for found in exchanged)
                    row["bounds_above_2_percent"] = sum(found > 0.02 for found in bounds)
                    said = f"{row['bound_most']:11.2%} {row['steps_above_2_percent']:16} "
                    said += f"{row['bounds_above_2_percent']:17}"
                results.append(row)
                print(
                    f"{mix:15} {budget:6} {ranks:5} {each:5}  {row['imbalance_of_whole_packs']:11.2%}  "
                    f"{row['imbalance']:11.2%} {row['imbalance_99th_percentile']:8.2%} {row['imbalance_most']:8.2%} "
                    f"{row['ms_a_step']:8.1f}  {said}"
                )
    record(options.out, results)
