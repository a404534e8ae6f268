"""`anyres train --plan`: what a run will take, before anything starts."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..config import require
from ..devices import device_kind
from ..model import lora
from ..model.nit import NiT
from ..tables import aligned
from ..train.config import TrainConfig
from ..train.distributed import check_shares
from .imagenet import VARIANTS
from .measured import MEASURED, Measured, fitting
from .summary import DataSummary

# bytes of each parameter, all in float32, and of each that is trained
STATE_BYTES = {"weights": 4, "average": 4}
TRAINED_BYTES = {"gradient": 4, "AdamW's moments": 8}
CHECKPOINT_BYTES = 16  # of what is trained, all but the gradient
HOURS_A_DAY = 24
# what a block keeps between the passes of our kernels in bfloat16, in tensors of tokens × width: at each of two norms
# the sum, the branch and the result; a product and its two rotated parts; what is attended. The MLP's two are wider.
KEPT_BY_BLOCK, KEPT_BY_MLP = 3 + 3 + 3 + 2 + 1, 2
ACTIVATION_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a run is planned for.

    Attributes:
        gpus: how many.
        price_per_gpu_hour: of one of them, in any currency.
        tokens_per_second: of one of them, where it was measured.
        device: the kind that trains: "auto" and "cuda" are GPUs, whose recorded speeds say nothing of others.
        time_limit: seconds after which the run ends to be started again, or None.
    """

    gpus: int = 1
    price_per_gpu_hour: float | None = None
    tokens_per_second: float | None = None
    device: str = "auto"
    time_limit: float | None = None

    def __post_init__(self) -> None:
        require(self.gpus >= 1, f"gpus = {self.gpus}", "at least 1")
        for name in ("price_per_gpu_hour", "tokens_per_second"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} = {value}", "more than 0")


def plan(
    name: str,
    config: TrainConfig,
    data: DataSummary,
    resources: Resources,
    records: Sequence[Measured] = MEASURED,
) -> str:
    """A table of a run's size, memory, disk, time and cost.

    Args:
        name: of the recipe.
        config: the run's.
        data: what it is trained on; without rows, what is assumed of it.
        resources: the GPUs.
        records: measured speeds; where none fits, that is said.

    Raises:
        ConfigError: the step's packs cannot be dealt to so many GPUs, or the device has no such name.
    """
    check_shares(config, resources.gpus)
    gpu = device_kind(resources.device) in ("auto", "cuda")
    like = fitting(config.model, records) if gpu else []
    fits = [each for each in like if each.recomputed_blocks == config.recomputed_blocks]
    tokens = config.steps * _tokens_a_step(config, data)
    return aligned(
        [
            *_size(name, config, data),
            *_data(name, config, data),
            *_memory(config, fits),
            *_time(tokens, fits, resources),
        ]
    )


Line = tuple[str, str]


def _size(name: str, config: TrainConfig, data: DataSummary) -> Iterator[Line]:
    parameters, projector = _parameters(config)
    extra = f", {_trained(config) / 1e6:,.1f}M trained with LoRA" if config.lora_rank else ""
    extra += f", and {projector / 1e6:,.1f}M of the projector while training" if projector else ""
    yield "recipe", f"{name}: {parameters / 1e6:,.1f}M parameters{extra}"
    step = _tokens_a_step(config, data)
    yield "step", f"{step:,} tokens at most: {config.packs_per_step} packs of {step // config.packs_per_step:,}"
    yield "run", f"{config.steps:,} steps, {config.steps * step / 1e9:,.1f} billion tokens"


def _data(name: str, config: TrainConfig, data: DataSummary) -> Iterator[Line]:
    if data.rows:
        tokens = _tokens(config, data)
        epochs = config.steps * _tokens_a_step(config, data) / tokens
        yield (
            "data",
            f"{data.rows:,} rows ({', '.join(data.variants)}) of {tokens:,} tokens: about {epochs:,.1f} epochs"
            + ("" if config.packing.draws.is_once else ", were each drawn once an epoch"),
        )
    else:
        assumed = f"{data.num_classes:,} labels, {data.channels} channels and {data.px_per_cell} px a cell"
        yield "data", f"none given: as if of {assumed}"
    missing = [variant for variant in VARIANTS if variant not in data.variants]
    if data.rows and name.startswith("imagenet_") and missing:
        yield "", f"not as published: without {', '.join(missing)}"
    if config.teacher is not None and data.teacher is not None:
        until = f" until step {config.teacher.stop_after:,}" if config.teacher.stop_after else ""
        yield "teacher", f"{data.teacher.describe()}; weight {config.teacher.weight:g}{until}"
    else:
        yield "teacher", "none"


def _tokens(config: TrainConfig, data: DataSummary) -> int:
    """Of the dataset."""
    return data.cells // config.model.patch_size**2


def _tokens_a_step(config: TrainConfig, data: DataSummary) -> int:
    """At most; a small dataset does not fill a pack."""
    budget = config.packing.budget
    return config.packs_per_step * (min(budget, _tokens(config, data)) if data.rows else budget)


def _memory(config: TrainConfig, fits: Sequence[Measured]) -> Iterator[Line]:
    trained = _trained(config)
    state = (sum(_parameters(config)) * sum(STATE_BYTES.values()) + trained * sum(TRAINED_BYTES.values())) / 2**30
    parts = ", ".join([*STATE_BYTES, *TRAINED_BYTES])
    yield "memory", f"{state:,.1f} GiB for {parts}, on each GPU that holds them whole"
    depth, recomputed = config.model.depth, config.recomputed_blocks
    blocks = f"the first {recomputed} of {depth} blocks recomputed" if recomputed else f"all {depth} blocks kept"
    counted = activation_bytes(config) / 2**30
    yield "", f"{counted:,.1f} GiB for activations on a GPU, counted: {config.packing.budget:,} tokens, {blocks}"
    for record in fits:
        yield "", f"measured, all included: {record.peak_gib} GiB with packs of {record.budget:,} tokens"
    saved = trained * CHECKPOINT_BYTES / 2**30
    # an old one is removed after the new one is whole
    yield "disk", f"{saved:,.1f} GiB a checkpoint, {config.keep_checkpoints + 1} of them for a moment"


def activation_bytes(config: TrainConfig) -> int:
    """What the blocks keep of a pack for the backward pass, at most at once, in bfloat16 and with our kernels.

    A recomputed block keeps its input; and while it is computed anew, all, when nothing is left of the blocks after it.
    """
    tensor = ACTIVATION_BYTES * config.packing.budget * config.model.hidden_size
    whole = KEPT_BY_BLOCK + KEPT_BY_MLP * config.model.mlp_ratio
    inputs = config.recomputed_blocks
    return round(tensor * (inputs + whole * max(config.model.depth - inputs, 1)))


def _time(tokens: int, fits: Sequence[Measured], resources: Resources) -> Iterator[Line]:
    given = resources.tokens_per_second
    speeds = (
        [(given, f"{given:,.0f} tokens/s a GPU, as given")] if given else [(r.tokens_per_second, str(r)) for r in fits]
    )
    for speed, said in speeds:
        hours = tokens / speed / resources.gpus / 3600
        yield "speed", said
        gpus = "one GPU" if resources.gpus == 1 else f"{resources.gpus} GPUs, were they {resources.gpus} times as fast"
        yield "time", f"{_duration(hours)} on {gpus}"
        if resources.time_limit is not None:
            limit = resources.time_limit / 3600
            yield "starts", f"{max(1, math.ceil(hours / limit)):,} of {limit:,.1f} hours, if none lost time"
        if resources.price_per_gpu_hour is not None:
            price = resources.price_per_gpu_hour
            cost = hours * resources.gpus * price
            yield "cost", f"{cost:,.0f} for {hours * resources.gpus:,.1f} GPU-hours at {price:g} each"
    if not speeds:
        yield "speed", "not known: no measurement of this network is recorded"
        yield "time", "not known; pass --tokens-per-second, such as a short run's metrics.jsonl has"
        if resources.price_per_gpu_hour is not None:
            yield "cost", "not known"


def _duration(hours: float) -> str:
    return f"{hours / HOURS_A_DAY:,.1f} days" if hours >= 2 * HOURS_A_DAY else f"{hours:,.1f} hours"


def _trained(config: TrainConfig) -> int:
    """Parameters that are trained."""
    with torch.device("meta"):
        model = NiT(config.model)
        if config.lora_rank:
            lora.attach(model, config.lora_rank)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _parameters(config: TrainConfig) -> tuple[int, int]:
    """Parameters without and of the projector."""
    with torch.device("meta"):
        model = NiT(config.model)
    projector = sum(p.numel() for p in model.projector.parameters()) if model.projector is not None else 0
    return sum(p.numel() for p in model.parameters()) - projector, projector
