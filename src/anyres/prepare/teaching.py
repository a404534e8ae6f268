"""The teacher of a preparation: which it is, and what its features will take."""

import shutil
from collections.abc import Iterable, Sequence

import torch

from .. import noise
from ..latents.features import TeacherInfo
from ..latents.writer import Rejected
from ..networks.features import MapNetwork
from ..networks.teacher import Teacher, load_teacher
from .found import SourceImage
from .options import PrepareOptions
from .variants import ahead, make_pictures

SAMPLED = 64  # images by which the size on disk is estimated


def chosen_teacher(options: PrepareOptions, device: torch.device, network: MapNetwork | None) -> Teacher | None:
    """The given network, or the one that the options name, as a teacher.

    Raises:
        ConfigError, BackendError, DataError, CheckpointError: see `load_teacher`.
    """
    if network is None and options.teacher is not None:
        network = load_teacher(options.teacher, device, options.teacher_weights)
    return Teacher(network, options.teacher_dtype, device) if network is not None else None


def teacher_info(teacher: Teacher, options: PrepareOptions) -> TeacherInfo:
    """What the dataset will say of it."""
    return TeacherInfo(
        identity=teacher.identity,
        dim=teacher.dim,
        cells=options.multiple_of_cells,
        px=teacher.px,
        dtype=options.teacher_dtype,
    )


def statement(teacher: Teacher, options: PrepareOptions, images: Iterable[SourceImage], px_per_cell: int) -> str:
    """What the features of these images will take on disk, estimated from some of them; of a stream, what each will."""
    info = teacher_info(teacher, options)
    each = 2 * teacher.bytes  # both flips
    free = _in_words(shutil.disk_usage(options.out).free)
    if isinstance(images, Sequence):
        size = _in_words(each * _features(options, images, info.cells, px_per_cell))
        said = f"{len(images):,} images' features by the teacher {info.describe()}. They will take about {size} of disk"
    else:
        square = info.cells * px_per_cell
        said = (
            f"a stream's features by the teacher {info.describe()}. They will take {each / 2**10:,.1f} KiB of disk for "
            f"each {square}x{square} px of a picture"
        )
    cheaper = "; --teacher-dtype int8 would take half" if info.dtype == "float16" else ""
    return f"{said}, where {free} are free{cheaper}"


def _features(options: PrepareOptions, images: Sequence[SourceImage], side: int, px_per_cell: int) -> float:
    """How many these images have, one to a square of `side` cells, estimated from some of them."""
    chosen = sorted(noise.generator("teacher").permutation(len(images))[:SAMPLED].tolist())
    cells = 0
    for made in ahead(lambda n: make_pictures(options, images[n], px_per_cell), chosen, options.workers):
        if not isinstance(made, Rejected):
            cells += sum(picture.row.cells[0] * picture.row.cells[1] for picture in made)
    return cells // side**2 * len(images) / max(len(chosen), 1)


def _in_words(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
