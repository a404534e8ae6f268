"""How evenly the packs of a step are dealt to ranks: whole packs as they come, and after images are exchanged.

    OMP_NUM_THREADS=1 python -m benchmarks dealing [--images N] [--out FILE]

Imbalance is how much longer the costliest rank of a step computes than all would if they were even, by the operations
of the `xl` network. Lengths: those of `packing.py`, and as many of each octave from 16 to 4,096 tokens.
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
    print(f"{'lengths':15} {'budget':>6} {'ranks':>5} {'each':>5}  whole packs   exchanged: mean, 99%, most  ms a step")
    for mix, lengths in all_lengths.items():
        for budget in BUDGETS:
            packs = shuffled_best_fit(lengths, budget, np.random.default_rng(0))
            for ranks, each in RANKS:
                in_step = ranks * each
                whole, exchanged, seconds = [], [], 0.0
                for first in range(0, len(packs) - in_step + 1, in_step):
                    step = [packs[number] for number in range(first, first + in_step)]
                    start = time.perf_counter()
                    even = even_packs(step, lengths, COST, budget)
                    seconds += time.perf_counter() - start
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
                results.append(row)
                print(
                    f"{mix:15} {budget:6} {ranks:5} {each:5}  {row['imbalance_of_whole_packs']:11.2%}  "
                    f"{row['imbalance']:11.2%} {row['imbalance_99th_percentile']:8.2%} {row['imbalance_most']:8.2%} "
                    f"{row['ms_a_step']:8.1f}"
                )
    record(options.out, results)
