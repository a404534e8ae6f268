"""Packing algorithms on 1.28 million lengths: seconds on one thread, how full the packs are, packs of one size only.

    OMP_NUM_THREADS=1 python -m benchmarks packing [--images N] [--out FILE]

Lengths are made like ImageNet's at 32 px a token: native sizes log-normal around 480 × 375 px, and for the
three-variant mix a third each of native, 256² px (64 tokens) and 512² px (256 tokens) crops.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from anyres.packing.algorithms import lpfhp, shuffled_best_fit

from .recording import RESULTS, record

PX_PER_TOKEN = 32
ALGORITHMS = {"lpfhp": lpfhp, "shuffled_best_fit": shuffled_best_fit}
BUDGETS = (8192, 16384, 65536)
REPEATS = 3


def native_grids(images: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width) in tokens of ImageNet-like sizes, sides floored to whole tokens, at most 2048² px."""
    width = np.exp(rng.normal(np.log(480), 0.35, images))
    height = width * np.exp(rng.normal(np.log(0.78), 0.3, images))
    shrink = np.sqrt(np.minimum(1, 2048**2 / (width * height)))
    columns, rows = (np.maximum(1, side * shrink // PX_PER_TOKEN) for side in (width, height))
    return np.stack([rows, columns], axis=1).astype(np.int64)


def native_lengths(images: int, rng: np.random.Generator) -> np.ndarray:
    """Tokens of such images."""
    return native_grids(images, rng).prod(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_280_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "packing.json")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    third = options.images // 3
    mixes = {
        "three variants": np.concatenate([np.full(third, 64), np.full(third, 256), native_lengths(third, rng)]),
        "native only": native_lengths(options.images, rng),
    }
    results = []
    print(f"{'lengths':15} {'algorithm':18} {'budget':>6} {'seconds':>8} {'full':>9} {'one size':>9} images a pack")
    for mix, lengths in mixes.items():
        for name, algorithm in ALGORITHMS.items():
            for budget in BUDGETS:
                seconds = []
                for repeat in range(REPEATS):
                    start = time.perf_counter()
                    packs = algorithm(lengths, budget, np.random.default_rng(repeat))
                    seconds.append(time.perf_counter() - start)
                images = np.diff(packs.offsets)
                row = {
                    "lengths": mix,
                    "images": len(lengths),
                    "algorithm": name,
                    "budget": budget,
                    "seconds": round(statistics.median(seconds), 3),
                    "efficiency": round(packs.efficiency(lengths, budget), 6),
                    "one_size_share": round(packs.one_size_share(lengths), 4),
                    "images_per_pack": [round(float(images.mean()), 1), round(float(images.std()), 1)],
                }
                results.append(row)
                print(
                    f"{mix:15} {name:18} {budget:6} {row['seconds']:8.2f} {row['efficiency']:9.3%} "
                    f"{row['one_size_share']:9.2%} {images.mean():.1f} ± {images.std():.1f}"
                )
    record(options.out, results)
