"""Where a step's device time goes, by kind of kernel."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from anyres.tables import aligned

STEPS = 3
LARGEST = 15  # kernels listed by name

# the first that fits a kernel's name; attention's kernels have words of products in theirs
KINDS = (
    ("attention", r"flash|fmha|attention|flex|varlen|_attend"),
    ("optimizer", r"multi_tensor|adam|lerp|LpNorm|_foreach_|_fused_|^_update|_sum_squares|_judge"),
    ("products", r"gemm|nvjet|cutlass|xmma|cublas|splitk|aten::(add)?mm|aten::bmm"),
    ("norms and modulation", r"_norm_(for|back)ward|_sum_pieces|layer_?norm|RowwiseMoments|GammaBeta"),
    ("rotation", r"_heads_(for|back)ward"),
    ("GELU", r"gelu"),
    ("into 8 bits", r"^_write_(rows|columns|weight)"),
    ("copies and casts", r"copy|memcpy|memset|fill|zero_|CatArray|aten::cat|_to_copy"),
)


def kind_of(kernel: str) -> str:
    """A kernel's kind, from its name."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, kernel, re.IGNORECASE)), "other")


def profiled(step: Callable[[], object], device: torch.device, trace: Path) -> dict:
    """Profile some steps after the warm-up, print the shares, and write the trace.

    Returns:
        ms a step and share of each kind, and the largest kernels; on a CPU, of its operators.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        for _ in range(STEPS):
            step()
        if on_gpu:
            torch.cuda.synchronize(device)
    trace.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(trace))
    kernels: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        # an annotation, such as the optimizer's, spans the kernels that are counted by themselves
        if on_gpu and event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            kernels[event.key] += event.self_device_time_total / 1000 / STEPS
        elif not on_gpu:
            kernels[event.key] += event.self_cpu_time_total / 1000 / STEPS
    return shares(kernels)


def shares(kernels: dict[str, float]) -> dict:
    """Kernels' ms a step, gathered by kind, printed."""
    total, kinds = sum(kernels.values()), defaultdict(float)
    for name, ms in kernels.items():
        kinds[kind_of(name)] += ms
    rows = [("kind", "ms a step", "share")]
    ordered = sorted(kinds.items(), key=lambda each: -each[1])
    rows += [(kind, f"{ms:.2f}", f"{ms / total:.1%}") for kind, ms in ordered]
    print(aligned([*rows, ("all", f"{total:.2f}", "")]))
    largest = sorted(kernels.items(), key=lambda each: -each[1])[:LARGEST]
    print(aligned([("largest", "ms a step", "kernel"), *((kind_of(n), f"{ms:.2f}", n[:100]) for n, ms in largest)]))
    return {
        "ms": total,
        "kinds": {kind: {"ms": ms, "share": ms / total} for kind, ms in ordered},
        "largest": [{"kernel": name, "ms": ms} for name, ms in largest],
    }


class Timeline(TypedDict):
    """Milliseconds of a step in which kernels run, the processes' exchange does, that does alone, and neither does."""

    kernels_ms: float
    exchange_ms: float
    exposed_ms: float
    idle_ms: float


def timeline(step: Callable[[], object], device: torch.device) -> Timeline:
    """How far a step's exchange with other processes hides behind its kernels, on a CUDA device."""
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(STEPS):
            step()
        torch.cuda.synchronize(device)
    kernels = [e for e in profiler.events() or [] if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    spans = [(e.time_range.start, e.time_range.end, "nccl" in e.name.lower()) for e in kernels]
    return covered(spans, STEPS)


def covered(spans: Sequence[tuple[float, float, bool]], steps: int) -> Timeline:
    """From each kernel's start and end in microseconds, and whether it is of the exchange."""
    edges = sorted((time, change, kind) for start, end, kind in spans for time, change in ((start, 1), (end, -1)))
    running = {True: 0, False: 0}
    found, before = (
        {"kernels_ms": 0.0, "exchange_ms": 0.0, "exposed_ms": 0.0, "idle_ms": 0.0},
        edges[0][0] if edges else 0.0,
    )
    for time, change, kind in edges:
        span, before = (time - before) / 1000 / steps, time
        found["kernels_ms"] += span * (running[False] > 0)
        found["exchange_ms"] += span * (running[True] > 0)
        found["exposed_ms"] += span * (running[True] > 0 and not running[False])
        found["idle_ms"] += span * (not running[True] and not running[False])
        running[kind] += change
    return Timeline(**found)
