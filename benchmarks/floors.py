"""What the device allows: ceilings, and the least time of a network's work.

    python -m benchmarks floors [--device auto] [--out FILE]

A floor is the sum of three parts, none of which overlaps another here: every matrix product alone, attention alone, and
the bytes that the steps between them must move, over the bandwidth of a copy.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F

from anyres.devices import pick_device
from anyres.grid import Grid
from anyres.model.attention import attend, plan_attention
from anyres.model.config import NiTConfig
from anyres.model.elementwise import QkvProjection, elementwise_for
from anyres.model.layers import SelfAttention
from anyres.model.rope import rotary_tables
from anyres.packing.pack import PackLayout
from anyres.tables import aligned

from .recording import device_name, record_of_device


@dataclass(frozen=True)
class Product:
    """A linear map of the network: rows × inputs → rows × outputs, so many times a pass."""

    name: str
    rows: int
    inputs: int
    outputs: int
    times: int

    @property
    def flops(self) -> int:
        """Of all times, forward; each of the two backward products takes as many again."""
        return 2 * self.rows * self.inputs * self.outputs * self.times


@dataclass(frozen=True)
class Traffic:
    """Bytes that have to move through the device's memory outside products and attention, and why."""

    why: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What the device reached: a large product, and a copy, whose bytes are counted read and written."""

    tflops: float
    terabytes_a_second: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = pick_device(options.device)
    found = ceilings(device)
    print(f"{device_name(device)}: {described(found)}")
    record_of_device(options.out, "floors", device, vars(found))


def described(found: Ceilings) -> str:
    """In words."""
    return f"a large product {found.tflops:.4g} TFLOP/s, a copy {found.terabytes_a_second:.3g} TB/s"


def dtype_on(device: torch.device) -> torch.dtype:
    """What products run in: bfloat16, but on a CPU float32."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def times(run: Callable[[], object], device: torch.device, *, repeats: int, warm_up: int = 3) -> list[float]:
    """Milliseconds of each repeat after the warm-up, by events on a GPU; it is not waited for between repeats."""
    for _ in range(warm_up):
        run()
    if device.type != "cuda":
        ends = [time.perf_counter()]
        for _ in range(repeats):
            run()
            ends.append(time.perf_counter())
        return [1000 * (end - start) for start, end in pairwise(ends)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    torch.cuda.synchronize(device)
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    torch.cuda.synchronize(device)
    return [start.elapsed_time(end) for start, end in pairwise(events)]


def median_ms(run: Callable[[], object], device: torch.device) -> float:
    """Median of some repeats; fewer on a CPU, where it is only a dry run."""
    return statistics.median(times(run, device, repeats=20 if device.type == "cuda" else 2, warm_up=2))


def kernel_ms(run: Callable[[], object], device: torch.device) -> float:
    """Median of some repeats without their launches: on a GPU they are recorded, and the recording is replayed."""
    if device.type != "cuda":
        return median_ms(run, device)
    stream, graph, runs = torch.cuda.Stream(device), torch.cuda.CUDAGraph(), 4
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):  # what is compiled or allocated once is no part of the recording
        run()
        run()
    torch.cuda.current_stream(device).wait_stream(stream)
    with torch.cuda.graph(graph):
        for _ in range(runs):
            run()
    return median_ms(graph.replay, device) / runs


def ceilings(device: torch.device) -> Ceilings:
    """Measure both."""
    on_gpu = device.type == "cuda"
    side, size = (8192, 2**31) if on_gpu else (512, 2**25)
    a, b = (torch.randn(side, side, device=device).to(dtype_on(device)) for _ in range(2))
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Ceilings(
        tflops=2 * side**3 / median_ms(lambda: a @ b, device) / 1e9,
        terabytes_a_second=2 * size / median_ms(lambda: target.copy_(source), device) / 1e9,
    )


def products(config: NiTConfig, tokens: int, images: int) -> list[Product]:
    """Every linear map of one pass; with attention's they are all of `NiTConfig.forward_flops`."""
    d, depth, hidden = config.hidden_size, config.depth, round(config.mlp_ratio * config.hidden_size)
    modulation = [Product("modulation", images, d, 6 * d, depth)]
    if rank := config.adaln_rank:
        modulation = [Product("modulation, down", images, d, rank, depth)]
        modulation.append(Product("modulation, up", images, rank, 6 * d, depth))
    return [
        Product("queries, keys, values", tokens, d, 3 * d, depth),
        Product("attention, out", tokens, d, d, depth),
        Product("MLP, up", tokens, d, hidden, depth),
        Product("MLP, down", tokens, hidden, d, depth),
        *modulation,
        Product("patch embedding", tokens, config.token_values, d, 1),
        Product("time, first", images, 256, d, 1),
        Product("time, second", images, d, d, 1),
        Product("head, modulation", images, d, 2 * d, 1),
        Product("head", tokens, d, config.token_values, 1),
    ]


def product_ms(product: Product, device: torch.device, *, backward: bool) -> float:
    """All times of a product alone; with `backward`, also the products of both gradients."""
    made = {"device": device, "dtype": dtype_on(device)}
    x = torch.randn(product.rows, product.inputs, **made)
    weight = torch.randn(product.outputs, product.inputs, **made)
    ms = kernel_ms(lambda: F.linear(x, weight), device)
    if backward:
        gradient = torch.randn(product.rows, product.outputs, **made)
        ms += kernel_ms(lambda: gradient @ weight, device) + kernel_ms(lambda: gradient.t() @ x, device)
    return ms * product.times


def attention_ms(
    lengths: Sequence[int], config: NiTConfig, device: torch.device, *, backward: bool, backend: str = "auto"
) -> float:
    """Attention alone in all blocks, within images of these lengths, forward or forward and backward."""
    dtype = dtype_on(device)
    layout = PackLayout.from_grids([Grid(1, length) for length in lengths]).to(device)
    plan = plan_attention(layout, backend, dtype)
    shape = (sum(lengths), 3, config.num_heads, config.head_dim)
    q, k, v = torch.randn(shape, device=device, dtype=dtype).unbind(1)
    if not backward:
        return config.depth * kernel_ms(lambda: attend(q, k, v, plan), device)
    leaves = [part.detach().requires_grad_() for part in (q, k, v)]
    gradient = torch.randn_like(q)
    return config.depth * kernel_ms(lambda: torch.autograd.grad(attend(*leaves, plan), leaves, gradient), device)


@torch.no_grad()
def attended_ms(lengths: Sequence[int], config: NiTConfig, device: torch.device, *, backend: str = "auto") -> float:
    """Attention in all blocks without gradients, with the norms and the rotation before it, which may be parts of it.

    Measured with the product that it begins with, whose own time is taken off.
    """
    dtype = dtype_on(device)
    layout = PackLayout.from_grids([Grid(1, length) for length in lengths]).to(device)
    block = SelfAttention(config).to(device, dtype)
    rotary = rotary_tables(layout, config.head_dim, config.position_order)
    projection = QkvProjection(block.qkv, block.q_norm, block.k_norm, rotary)
    ops, plan = elementwise_for(layout, "auto"), plan_attention(layout, backend, dtype)
    x = torch.randn(sum(lengths), config.hidden_size, device=device, dtype=dtype)
    whole = config.depth * kernel_ms(lambda: ops.attended(x, projection, plan), device)
    of_product = next(each for each in products(config, sum(lengths), 1) if each.name == "queries, keys, values")
    return whole - product_ms(of_product, device, backward=False)


def forward_traffic(config: NiTConfig, tokens: int) -> list[Traffic]:
    """Of one pass in 16 bits whose intermediate results nobody keeps, attention aside."""
    one = 2 * tokens * config.hidden_size * config.depth  # a tensor of tokens × width, in every block
    # bias and GELU can be done by the product before them, on its way to memory
    return [Traffic("residual and norm, twice a block: read x and the branch, write x and the norm", 2 * 4 * one)]


def training_traffic(config: NiTConfig, tokens: int, parameters: int) -> list[Traffic]:
    """Of one step on one pack: activations in 16 bits, the optimizer's state in 32."""
    one = 2 * tokens * config.hidden_size * config.depth
    wide = round(config.mlp_ratio * one)
    return [
        *forward_traffic(config, tokens),
        Traffic("norm and rotation of queries and keys: read both, write both", 4 * one),
        Traffic("before the GELU: kept by the product that makes it, read by its gradient's", 2 * wide),
        Traffic(
            "residual and norm, backward, twice a block: read x, the branch and both their gradients, write two",
            2 * 6 * one,
        ),
        Traffic("norm and rotation of queries and keys, backward: read four, write two", 6 * one),
        Traffic("norm of the gradient: read it, in 16 bits", 2 * parameters),
        Traffic("AdamW: read gradient, weight and two moments, write three", (2 + 6 * 4) * parameters),
        Traffic("average of the weights: read and write it, where AdamW has the weight at hand", 2 * 4 * parameters),
        Traffic("weights in 16 bits for the products: write them, where AdamW has them at hand", 2 * parameters),
    ]


def traffic_ms(traffic: Sequence[Traffic], found: Ceilings) -> float:
    """Its time at the bandwidth of a copy."""
    return sum(each.bytes for each in traffic) / found.terabytes_a_second / 1e9


def training_floor(config: NiTConfig, lengths: Sequence[int], parameters: int, device: torch.device) -> dict:
    """The floor of a training step, and what it is made of, in ms; measured now."""
    found, tokens = ceilings(device), sum(lengths)
    maps = {p.name: product_ms(p, device, backward=True) for p in products(config, tokens, len(lengths))}
    attention = attention_ms(lengths, config, device, backward=True)
    traffic = training_traffic(config, tokens, parameters)
    return _summed(found, maps, attention, {each.why: traffic_ms([each], found) for each in traffic})


def sampling_floor(config: NiTConfig, length: int, images: int, guided: float, device: torch.device) -> dict:
    """The floor of a solver step on images of one length, in ms; measured now.

    Args:
        config: the network's.
        length: tokens of an image.
        images: how many.
        guided: share of the steps in which each image is there twice.
        device: where.
    """
    found, maps, attention, moved = ceilings(device), {}, 0.0, {}
    for share, rows in ((1 - guided, images), (guided, 2 * images)):
        tokens = length * rows
        for product in products(config, tokens, rows):
            maps[product.name] = maps.get(product.name, 0) + share * product_ms(product, device, backward=False)
        attention += share * attended_ms([length] * rows, config, device)
        for each in forward_traffic(config, tokens):
            moved[each.why] = moved.get(each.why, 0) + share * traffic_ms([each], found)
    return _summed(found, maps, attention, moved)


def floor_table(floor: dict) -> str:
    """The floor's parts, in text."""
    rows = [("floor, ms", ""), ("  products", f"{floor['products_ms']:.4g}")]
    rows += [(f"    {name}", f"{ms:.4g}") for name, ms in floor["products"].items()]
    rows += [("  attention", f"{floor['attention_ms']:.4g}"), ("  other traffic", f"{floor['traffic_ms']:.4g}")]
    rows += [(f"    {why}", f"{ms:.4g}") for why, ms in floor["traffic"].items()]
    return aligned([*rows, ("  sum", f"{floor['ms']:.4g}")])


def _summed(found: Ceilings, maps: dict[str, float], attention: float, moved: dict[str, float]) -> dict:
    products_ms, traffic = sum(maps.values()), sum(moved.values())
    return {
        "ms": products_ms + attention + traffic,
        "products_ms": products_ms,
        "attention_ms": attention,
        "traffic_ms": traffic,
        "ceilings": vars(found),
        "products": maps,
        "traffic": moved,
    }
