"""A CPU: sampling with mini and training steps, beside their matrix products and attention alone.

    python -m benchmarks cpu [--threads 1] [--repeats 10] [--cases sampling mini tutorial] [--out FILE]

sampling: guided Euler steps of the model in the box, through `Pipeline.latents`. mini, tutorial: the trainer's own
step of these recipes' networks. Alone: every linear map of the pass without its bias, in training with both products of
its gradient, each on operands of its own; and torch's attention on tensors that lie as it wants them. Both run in turn,
so that other work on the machine meets both. The ratio is that of the medians; that of the processor's time, which does
not pass while others have it, is beside it.
"""

import argparse
import dataclasses
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from anyres import Pipeline
from anyres.flow.time import solver_times
from anyres.grid import Grid
from anyres.model.config import NiTConfig
from anyres.packing.plan import PackingConfig
from anyres.recipes.builtin import recipe_named
from anyres.recipes.summary import assumed_summary
from anyres.sample.request import make_requests
from anyres.tables import aligned

from .floors import products
from .recording import device_name, record
from .training import made_pack, made_state, our_step

CPU = torch.device("cpu")
SIZES = ("512x256", "256x256", "128x384")  # px, WIDTHxHEIGHT
STEPS = 2  # of the sampler, timed together
# tokens of a pack, and its images in turn; mini's is cut to what a CPU does in a second
PACKS = {
    "mini": (1024, [Grid(16, 16), Grid(12, 20), Grid(20, 12)]),
    "tutorial": (512, [Grid(6, 6), Grid(5, 7), Grid(8, 4), Grid(6, 4)]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10, help="timed turns, after two that are not")
    parser.add_argument("--cases", nargs="+", choices=("sampling", *PACKS), default=["sampling", *PACKS])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{device_name(CPU)}, {options.threads} threads, torch {torch.__version__}")
    rows = []
    for case in options.cases:
        ours, alone, row = sampling() if case == "sampling" else training(case)
        rows.append({"case": case, **row, **in_turn(ours, alone, options.repeats)})
        print(line(rows[-1]), flush=True)
    print(aligned([("case", "tokens", "ours, ms", "alone, ms", "ratio", "of processor time"), *map(line, rows)]))
    if options.out:
        record(options.out, {"cpu": device_name(CPU), "threads": options.threads, "cases": rows})


def sampling() -> tuple[Callable[[], object], Callable[[], object], dict]:
    """Some steps of mini, guided as its defaults say; the products and attention of as many passes."""
    pipe = Pipeline.from_pretrained("mini", device="cpu")
    labels = [number % len(pipe.labels.names) for number in range(len(SIZES))]
    requests = make_requests(labels, SIZES, None, table=pipe.labels, px_per_token=pipe.px_per_token)
    settings = dataclasses.replace(pipe.defaults, steps=STEPS)
    lengths = [request.grid.tokens for request in requests]
    guidance = settings.guidance_config()
    passes = [lengths * (2 if guidance.acts_at(t) else 1) for t in solver_times(STEPS)[:-1]]
    config = pipe.model.config
    each = {len(of_pass): work_alone(config, of_pass, backward=False) for of_pass in passes}

    def alone() -> None:
        with torch.no_grad():
            for of_pass in passes:
                each[len(of_pass)]()

    return lambda: pipe.latents(requests, settings), alone, {"tokens": sum(map(sum, passes)), "steps": STEPS}


def training(name: str) -> tuple[Callable[[], object], Callable[[], object], dict]:
    """A step of a recipe's network without a teacher; its products and attention."""
    room, kinds = PACKS[name]
    recipe = recipe_named(name)(dataclasses.replace(assumed_summary(name), teacher=None))
    config = dataclasses.replace(recipe, packing=PackingConfig(budget=room))
    grids = filled(kinds, room)
    lengths = [grid.tokens for grid in grids]
    step = our_step(made_state(config, CPU), made_pack(grids, config, CPU), config)
    return step, work_alone(config.model, lengths, backward=True), {"tokens": sum(lengths), "images": len(grids)}


def filled(kinds: Sequence[Grid], room: int) -> list[Grid]:
    """Images of these kinds in turn, until one does not fit."""
    grids: list[Grid] = []
    while (grid := kinds[len(grids) % len(kinds)]).tokens <= room:
        grids.append(grid)
        room -= grid.tokens
    return grids


def work_alone(config: NiTConfig, lengths: Sequence[int], *, backward: bool) -> Callable[[], None]:
    """The matrix products and the attention of one pass, or of one and its backward one, on made tensors."""
    maps, heads = [], []
    for product in products(config, sum(lengths), len(lengths)):
        shapes = (product.rows, product.inputs), (product.outputs, product.inputs), (product.rows, product.outputs)
        maps += [[torch.randn(shape) for shape in shapes] for _ in range(product.times)]
    for length, count in Counter(lengths).items():
        qkv = torch.randn(3, count, config.num_heads, length, config.head_dim)
        heads.append((qkv.requires_grad_(backward).unbind(0), torch.randn_like(qkv[0])))

    def run() -> None:
        for x, weight, _ in maps:
            F.linear(x, weight)
        for x, weight, gradient in maps if backward else ():
            _ = gradient @ weight, gradient.t() @ x
        for qkv, gradient in heads:
            for _ in range(config.depth):
                attended = F.scaled_dot_product_attention(*qkv)
                if backward:
                    torch.autograd.grad(attended, qkv, gradient)

    return run


def in_turn(ours: Callable[[], object], alone: Callable[[], object], repeats: int) -> dict:
    """Ms of both, one after the other, so many times, by both clocks."""
    clocks = {"wall": time.perf_counter, "processor": time.process_time}
    each: dict[str, dict[str, list[float]]] = {clock: {"ours": [], "alone": []} for clock in clocks}
    for repeat in range(-2, repeats):
        for name, run in (("ours", ours), ("alone", alone)):
            starts = {clock: now() for clock, now in clocks.items()}
            run()
            for clock, now in clocks.items() if repeat >= 0 else ():
                each[clock][name].append(1000 * (now() - starts[clock]))
    medians = {clock: {name: statistics.median(ms) for name, ms in found.items()} for clock, found in each.items()}
    return {
        "ours_ms": medians["wall"]["ours"],
        "alone_ms": medians["wall"]["alone"],
        "ratio": medians["wall"]["ours"] / medians["wall"]["alone"],
        "ratio_of_processor_time": medians["processor"]["ours"] / medians["processor"]["alone"],
        "each_ms": each,
    }


def line(row: dict) -> tuple[str, ...]:
    """Of the table."""
    times = (f"{row[name]:.1f}" for name in ("ours_ms", "alone_ms"))
    return row["case"], f"{row['tokens']:,}", *times, f"{row['ratio']:.2f}", f"{row['ratio_of_processor_time']:.2f}"
