"""Every setting of a training run. Recipes return one of these, whole; the command line overrides its fields."""

from dataclasses import dataclass, field
from typing import Literal

import tyro

from ..config import require
from ..flow.path import PathName
from ..flow.time import TimeConfig
from ..grid import Size
from ..model.config import NiTConfig
from ..packing.plan import PackingConfig
from ..sample.request import SamplingSettings
from .tracking import TrackerName


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (arXiv 1711.05101), with the gradient's norm clipped."""

    learning_rate: float = 1e-4
    """Rate after the warm-up; never a function of the number of devices."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly from zero."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the averages of the gradient and of its square."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    eps: float = 1e-6
    """Added to the root of the second moment."""
    clip: float = 1.0
    """Greatest norm of a step's gradient."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, f"learning_rate = {self.learning_rate}", "more than 0")
        require(self.warmup_steps >= 0, f"warmup_steps = {self.warmup_steps}", "0 or more steps")
        require(self.clip > 0, f"clip = {self.clip}", "more than 0")
        require(all(0 <= beta < 1 for beta in self.betas), f"betas = {self.betas}", "each in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """The average of the weights that is sampled from and exported."""

    kind: Literal["power", "constant"] = "power"
    """"power": the profile is a power of the step, so its width is a fraction of the run however long (arXiv
    2312.02696); "constant": one decay, for long runs."""
    width: float = 0.05
    """Standard deviation of the power profile, as a fraction of the run so far."""
    decay: float = 0.9999
    """Decay a step of the constant average."""

    def __post_init__(self) -> None:
        require(0 < self.width < 0.28, f"width = {self.width}", "more than 0 and less than 0.28")
        require(0 <= self.decay < 1, f"decay = {self.decay}", "in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Alignment with a teacher, whose features the dataset holds, or which sees the images: REPA (arXiv 2410.06940).

    `model.projection` says after which block tokens are projected, and how.
    """

    weight: float = 0.5
    """Weight of 1 − cos(projected, feature) in the loss."""
    stop_after: int | None = None
    """Steps after which the term is off; by default it stays on. Late in training it may hold a model back (arXiv
    2505.16792)."""
    images: str | None = None
    """Where the dataset's images are, as `anyres prepare` was told; the teacher then sees them while training, and the
    dataset needs no features."""
    network: str | None = None
    """The teacher that sees them: efficientnet-lite0, efficientnet-lite2, dinov2 or radio, whose weights are NVIDIA's:
    those not named C-RADIO are for non-commercial use only."""
    weights: str | None = None
    """Of radio: a folder or hub id, whose Python code is run; of dinov2: a folder."""

    def __post_init__(self) -> None:
        require(self.weight > 0, f"weight = {self.weight}", "more than 0", "use --no-repa to train without a teacher")
        require(
            self.stop_after is None or self.stop_after >= 1, f"stop_after = {self.stop_after}", "at least 1, or none"
        )
        require(
            self.images is not None or self.network is None,
            f"network = {self.network!r} and no images that it sees",
            "teacher.images, too",
            "add --teacher.images, or leave --teacher.network out to align with the features that the dataset holds",
        )
        require(
            self.network is not None or self.weights is None,
            f"weights = {self.weights!r} and no network",
            "teacher.network, too",
        )

    def applies(self, step: int) -> bool:
        """Whether the term counts in a step, counted from 0."""
        return self.stop_after is None or step < self.stop_after


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """The trained model that a run begins from; see `train.base`."""

    name: str
    """Its folder (absolute), its name in the box, or its hub id."""
    revision: str | None
    """Commit of the hub repository."""
    fingerprint: str
    """The start of a hash over its weights."""
    rows: tuple[int | None, ...]
    """Of each label of the run, its row in the base's label table; None of a new label."""
    trained_side: int
    """Longest side in tokens that the base's training has seen; 0 where that is not known."""


@dataclass(frozen=True, kw_only=True)
class HeldOutConfig:
    """The loss on images that are never trained on, by the averaged weights."""

    share: float = 0.05
    """Share of the images held out, chosen by a hash of their content; 0 holds out none."""
    every: int = 500
    """Steps between two measurements."""
    packs: int = 8
    """Most packs measured; always the same ones, with the same noise."""
    draws: int = 1
    """Times and noises that each of them is measured with: more where few images are held out."""

    keep_best: bool = False
    """Write the model with the lowest loss to RUN/best as well."""

    def __post_init__(self) -> None:
        require(0 <= self.share < 1, f"share = {self.share}", "in [0, 1)")
        for name in ("every", "packs", "draws"):
            require(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}", "at least 1")


@dataclass(frozen=True, kw_only=True)
class PicturesConfig:
    """Pictures made during training, by the averaged weights, always from the same seeds; `sampling` says how."""

    every: int = 1000
    """Steps between two sheets; 0 makes none."""
    sizes: tuple[str, ...] = ("256x256",)
    """Sizes in px, WIDTHxHEIGHT; each is made for each of the first labels."""
    labels: int = 4
    """How many labels."""

    def __post_init__(self) -> None:
        require(self.every >= 0, f"every = {self.every}", "0 or more steps")
        require(self.labels >= 1, f"labels = {self.labels}", "at least 1")
        for size in self.sizes:
            Size.parse(size)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run."""

    model: NiTConfig
    """The architecture."""
    packing: PackingConfig
    """How images are packed."""
    steps: int
    """Length of the run."""
    lora_rank: int = 0
    """Of a base: train changes of this rank (LoRA) and the label table, the rest stays; 0 trains all weights."""
    base: tyro.conf.Suppress[BaseConfig | None] = None
    """The trained model that it begins from, in the place of random weights; the recipe `finetune` sets it."""
    packs_per_step: int = 1
    """Consecutive packs whose gradients make one step, shared equally among the processes that train together and
    accumulated one after another in each."""
    seed: int = 0
    """Seed of the order, the noise and the initial weights."""
    path: PathName = "linear"
    """Path between data and noise."""
    time: TimeConfig = field(default_factory=TimeConfig)
    """How t is drawn."""
    direction_weight: float = 1.0
    """Weight of 1 − cos(v̂, v) beside the mean square."""
    loss_tokens_power: float = 1.0
    """An image counts in the loss by its tokens to this power: at 1 every token counts the same, at 0 every image."""
    teacher: TeacherConfig | None = None
    """Alignment with a teacher; recipes set it where the dataset holds a teacher's features."""
    label_dropout: float = 0.1
    """Probability that an image's label is replaced by the null label."""
    flip: bool = True
    """Train on either flip of an image, at random."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer."""
    ema: EmaConfig = field(default_factory=EmaConfig)
    """The average of the weights."""
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    """The held-out loss."""
    pictures: PicturesConfig = field(default_factory=PicturesConfig)
    """Pictures during training."""
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    """How those pictures are sampled, and what the exported model has as its defaults."""
    precision: Literal["auto", "float32", "bfloat16", "float8"] = "auto"
    """Of matrix products; "auto" is bfloat16 autocast on a GPU, float32 on a CPU; "float8" is bfloat16 with the blocks'
    products in 8 bits, in one process on a GPU of compute capability 8.9 or more."""
    attention: str = "auto"
    """Attention backend: auto, reference, sdpa, varlen, flex or triton."""
    cuda_graph: Literal["auto", "on", "off"] = "auto"
    """Record the step once and replay it: one launch a pack; "auto" does on a GPU where it can."""
    recomputed_blocks: int = 0
    """Activation checkpointing: of the first so many blocks only the input is kept for the backward pass, which
    computes the rest anew. Less memory, at most a third more work; depth − 1 saves all that can be saved."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """With several processes (torchrun): "ddp" keeps all weights in each, "fsdp" a part of each weight; "auto" takes
    fsdp where weights and what belongs to them would fill more than a quarter of a GPU."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""
    keep_checkpoints: int = 2
    """How many checkpoints stay; older ones are removed after a newer one is whole."""
    log_every: int = 10
    """Steps between two lines of metrics."""
    tracker: TrackerName | None = None
    """Send metrics to W&B or trackio as well, which have to be installed and set up."""

    def __post_init__(self) -> None:
        for name in ("steps", "packs_per_step", "checkpoint_every", "keep_checkpoints", "log_every"):
            require(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}", "at least 1")
        require(self.lora_rank >= 0, f"lora_rank = {self.lora_rank}", "0 (all weights), or the rank of what is trained")
        require(
            0 <= self.recomputed_blocks <= self.model.depth,
            f"recomputed_blocks = {self.recomputed_blocks}",
            f"0 to {self.model.depth}, the network's depth",
        )
        require(
            self.lora_rank == 0 or self.base is not None,
            f"lora_rank = {self.lora_rank} and no base",
            "0, or the rank of changes to a trained model",
            "use it with the recipe finetune",
        )
        require(
            self.lora_rank == 0 or self.parallel != "fsdp",
            "lora_rank with parallel = 'fsdp'",
            "ddp: what LoRA trains is small",
            "use --parallel ddp",
        )
        require(0 <= self.label_dropout <= 1, f"label_dropout = {self.label_dropout}", "in [0, 1]")
        require(self.direction_weight >= 0, f"direction_weight = {self.direction_weight}", "0 or more")
        power = self.loss_tokens_power
        require(0 <= power <= 1, f"loss_tokens_power = {power}", "0 (by image) to 1 (by token)")
        require(
            (self.teacher is None) == (self.model.projection is None),
            f"{'no teacher' if self.teacher is None else 'a teacher'} and "
            f"{'no projection' if self.model.projection is None else 'a projection'}",
            "both teacher and model.projection, or neither",
            "use --no-repa to train without a teacher",
        )
