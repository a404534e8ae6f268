"""The options of `anyres prepare` and `anyres import-released`."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..config import require

VERSIONS = 6


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Options of `anyres prepare`."""

    images: Annotated[Path, tyro.conf.Positional]
    """A folder with one folder a class, or a flat folder of images (one class, "unlabelled"); a .csv or .parquet of
    paths and labels; WebDataset tars, one or a pattern such as 'data/{000..099}.tar'; or hf:NAME, hf:NAME@REVISION or
    hf:FOLDER, a data set of Hugging Face."""
    more_tars: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Further tars, as a shell makes of a pattern."""
    out: Path
    """The dataset's folder. The same command again finishes what was interrupted, and adds new images."""
    autoencoder: str = "patch-pca"
    """"patch-pca" (fitted to these images on the spot), or the folder or hub id of an AutoencoderDC, AutoencoderKL or
    PatchPCA."""
    revision: str | None = None
    """Branch, tag or commit of the autoencoder's hub repository."""
    variants: tuple[Literal["native", "square-256", "square-512"], ...] = ("native",)
    """What to make of each image: native keeps its size and shape; the squares are centre crops."""
    crop: tuple[str, ...] = ()
    """Labels of photographs: besides the image itself, crops of it in other shapes and sizes."""
    canvas: tuple[str, ...] = ()
    """Labels of cut-outs: besides the image itself, it on wider and taller canvases of its plain border's colour."""
    rescale: tuple[str, ...] = ()
    """Labels of pictures that must stay whole, such as flags: besides the image itself, it in smaller sizes."""
    reshaped: int | None = None
    """How many such versions of each image of those labels; 6 by default."""
    max_side: int = 2048
    """px; a larger image is reduced to the area of the square of this side, keeping its shape."""
    multiple_of_cells: int = 1
    """Sides are floored to a multiple of this many cells; the patch size of the model to be trained must divide it."""
    upscale: bool = False
    """Make the square variants of images that are smaller than the square, too."""
    teacher: str | None = None
    """efficientnet-lite0, efficientnet-lite2, dinov2 or radio: store this network's features beside the latents, for
    training that aligns with them (REPA); one for each square of --multiple-of-cells cells a side. RADIO's weights are
    NVIDIA's: those not named C-RADIO are for non-commercial use only."""
    teacher_weights: str | None = None
    """Of radio: a folder or hub id, whose Python code is run; of dinov2: a folder."""
    teacher_dtype: Literal["float16", "int8"] = "float16"
    """What features are stored in; int8 takes half of the disk."""
    images_per_shard: int = 512
    """Images written together, at most: what is redone after a kill."""
    batch_px: int | None = None
    """px encoded together, mirror images included; by default what suits the device (1M on a CPU, 4M on a GPU)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the autoencoder computes in: bfloat16 is faster on a GPU, where it is the default, and less exact. PatchPCA
    is always in float32."""
    workers: int = field(default_factory=lambda: max(1, min(16, (os.cpu_count() or 1) // _processes())))
    """Threads that decode images, of each process; by default one a core, up to 16."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    image_column: str | None = None
    """Column of the images: by default "path" of a table, "image" of hf:. In tars, their extension, such as jpg."""
    label_column: str | None = None
    """Column of the labels, by default "label" if there is one. In tars, their extension ("cls"), or json.FIELD."""
    split: str | None = None
    """Split of hf:, by default "train"."""
    subset: str | None = None
    """Subset (configuration) of hf:, where it has several."""
    streaming: bool = False
    """Read hf: from its start to its end, instead of downloading it first."""

    def __post_init__(self) -> None:
        for name in ("max_side", "multiple_of_cells", "images_per_shard", "workers"):
            require(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}", "at least 1")
        require(self.batch_px is None or self.batch_px >= 1, f"batch_px = {self.batch_px}", "at least 1, or none")
        require(self.reshaped is None or self.reshaped >= 1, f"reshaped = {self.reshaped}", "at least 1, or none")
        require(
            self.reshaped is None or bool(self.labels_reshaped),
            f"reshaped = {self.reshaped} and no label to reshape",
            "labels in --crop, --canvas or --rescale",
            fix="name some, or leave --reshaped out",
        )
        require(
            len(set(self.variants)) == len(self.variants) > 0, f"variants {self.variants}", "at least one, each once"
        )
        require(
            self.teacher is not None or self.teacher_weights is None,
            f"teacher_weights = {self.teacher_weights!r} and no teacher",
            "--teacher, too",
        )
        several = sorted(label for label, times in Counter(self.labels_reshaped).items() if times > 1)
        require(
            not several, f"{', '.join(several)} twice in --crop, --canvas and --rescale", "each label in one of them"
        )

    @property
    def labels_reshaped(self) -> tuple[str, ...]:
        """Labels whose images are made in further versions."""
        return (*self.crop, *self.canvas, *self.rescale)

    @property
    def versions(self) -> int:
        """Further versions of each of those images."""
        return VERSIONS if self.reshaped is None else self.reshaped


def _processes() -> int:
    """Those that torchrun has started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of `anyres import-released`."""

    manifest: Annotated[Path, tyro.conf.Positional]
    """The JSON-lines file of the latents: …_merge_meta.jsonl, or the one of a single type."""
    out: Path
    """The dataset's folder. The same command again finishes what was interrupted."""
    native: Path | None = None
    """Folder of the latents of type native-resolution."""
    square_256: Path | None = None
    """Folder of the latents of type fixed-256x256."""
    square_512: Path | None = None
    """Folder of the latents of type fixed-512x512."""
    packs: Path | None = None
    """The JSON file of packs, lists of line numbers: …_LPFHP_16384.json. Train in them: --packing.algorithm fixed."""
    autoencoder: str = "mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers"
    """Folder or hub id of the autoencoder that made the latents."""
    revision: str | None = None
    """Branch, tag or commit of its hub repository."""
    num_classes: int = 1000
    """How many classes there are, also if the manifest has images of fewer; they are named by their number."""
    latents_per_shard: int = 4096
    """Latents written together: what is redone after a kill."""
    workers: int = 8
    """Threads that read files."""

    def __post_init__(self) -> None:
        for name in ("num_classes", "latents_per_shard", "workers"):
            require(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}", "at least 1")
