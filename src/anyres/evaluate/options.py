"""The options of `anyres evaluate` and `anyres reference`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..config import require
from ..sample.options import SamplerOptions

Metric = Literal["kid", "frechet", "spatial_frechet", "inception_score", "precision", "recall", "density", "coverage"]


@dataclass(frozen=True, kw_only=True)
class MeasuringOptions:
    """How images are measured."""

    size: str | None = None
    """WIDTHxHEIGHT in px that all images are cropped and reduced to; by default each keeps its own size."""
    max_side: int | None = None
    """Instead: reduce images of this side squared or more to that area in px, keeping their shape."""
    multiple: int | None = None
    """With --max-side: floor sides to multiples of this many px; by default 1, or a model's token."""
    upscale: bool = False
    """Enlarge images that are smaller than --size instead of leaving them out."""
    network: str | None = None
    """The feature network: efficientnet-lite2 (the default), efficientnet-lite0, inception or dinov2."""
    weights: Path | None = None
    """Its weights, for inception (.pth or .safetensors) and dinov2 (a folder); by default they are downloaded."""
    held_out: Path | None = None
    """Real images that are not in the reference, for the controls; by default a share of the reference is held out."""
    held_out_share: float | None = None
    """That share: by default 0.2, or what a training run held out."""
    seed: int = 0
    """Of all that is chosen at random; sampled images have the seeds from here on."""
    batch: int | None = None
    """Images that go through the network together; by default what suits the device."""
    workers: int = 2
    """Threads that decode images."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    def __post_init__(self) -> None:
        require(self.batch is None or self.batch >= 1, f"batch = {self.batch}", "at least 1")
        require(self.workers >= 1, f"workers = {self.workers}", "at least 1")
        require(self.max_side is None or self.max_side >= 1, f"max_side = {self.max_side}", "at least 1 px")
        require(self.multiple is None or self.multiple >= 1, f"multiple = {self.multiple}", "at least 1 px")
        share = self.held_out_share
        require(share is None or 0 < share < 1, f"held_out_share = {share}", "more than 0 and less than 1")
        require(not self.upscale or self._is_sized(), "--upscale without --size", "both", "add --size WIDTHxHEIGHT")
        require(
            self.multiple is None or self.max_side is not None,
            "--multiple without --max-side",
            "both",
            "add --max-side PX",
        )
        for one, other in (("size", "max_side"), ("held_out", "held_out_share")):
            require(
                getattr(self, one) is None or getattr(self, other) is None,
                f"--{one.replace('_', '-')} and --{other.replace('_', '-')}",
                "one of them",
                "leave one out",
            )

    def _is_sized(self) -> bool:
        return self.size is not None


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(MeasuringOptions):
    """Options of `anyres reference`."""

    images: Annotated[Path, tyro.conf.Positional]
    """A folder of real images, or an .npz file."""
    out: Path
    """Folder of the reference."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(SamplerOptions, MeasuringOptions):
    """Options of `anyres evaluate`."""

    made: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL_OR_IMAGES")] = None
    """What to evaluate: a folder of images, an .npz file, or a model: its folder or run, a built-in name, a hub id."""
    reference: Path | None = None
    """Real images: a folder, an .npz file, or a folder that anyres reference wrote."""
    out: Path = Path("evaluation")
    """Folder of the report."""
    compare: tuple[Path, Path] | None = None
    """Instead: two such folders, side by side."""
    sweep: tuple[str, ...] = ()
    """Evaluate a model at each combination, such as guidance=1,2,4 interval=0:0.7,0:1; of size, guidance, interval,
    steps, solver, extrapolation, decoupled and preset."""
    headline: Metric | None = None
    """The metric to quote, refused where these images cannot give it; by default kid, from 5,000 images on frechet."""
    count: int | None = None
    """Images to sample from a model; by default 500."""
    labels: Literal["data", "balanced", "random"] | None = None
    """Their labels: as often as in the reference, each as often, or at random; by default "data" where the reference
    has the model's labels, else "balanced"."""
    preset: str | None = None
    """Settings of a published result, such as nit-256x256."""
    trained_side: int | None = None
    """The side in px that images were trained at, to look for duplicated objects beyond it; known of a model."""

    def __post_init__(self) -> None:
        MeasuringOptions.__post_init__(self)
        SamplerOptions.__post_init__(self)
        require(self.count is None or self.count >= 1, f"count = {self.count}", "at least 1")
        require(
            self.trained_side is None or self.trained_side >= 1, f"trained_side = {self.trained_side}", "at least 1"
        )
        if self.compare is None:
            require(
                self.made is not None, "nothing to evaluate", "images or a model", "name a folder, an .npz or a model"
            )
            require(self.reference is not None, "no reference", "real images", "add --reference FOLDER")
        else:
            require(
                self.made is None and not self.sweep,
                "--compare with something to evaluate",
                "two folders of earlier evaluations alone",
                "leave the rest out",
            )

    def _is_sized(self) -> bool:
        return bool(self.size or self.preset) or any(axis.startswith(("size=", "preset=")) for axis in self.sweep)
