"""The teacher of a preparation: which it is, and what its features will take."""

import shutil
from collections.abc import Sequence

import torch

from .. import noise
from ..latents.features import TeacherInfo
from ..latents.writer import Rejected
from ..networks.features import MapNetwork
from ..networks.teacher import Teacher, load_teacher
from .images import ImageFile
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


def statement(teacher: Teacher, options: PrepareOptions, files: Sequence[ImageFile], px_per_cell: int) -> str:
    """What the features of these images will take on disk, estimated from some of them."""
    info = teacher_info(teacher, options)
    chosen = sorted(noise.generator("teacher").permutation(len(files))[:SAMPLED].tolist())
    cells = 0
    for made in ahead(lambda n: make_pictures(options, files[n], px_per_cell), chosen, options.workers):
        if not isinstance(made, Rejected):
            cells += sum(picture.row.cells[0] * picture.row.cells[1] for picture in made)
    # both flips
    size = 2 * teacher.bytes * (cells // info.cells**2) * len(files) / max(len(chosen), 1)
    free = shutil.disk_usage(options.out).free
    return (
        f"{len(files):,} images' features by the teacher {info.describe()}. They will take about "
        f"{_in_words(size)} of disk, where {_in_words(free)} are free"
        + ("; --teacher-dtype int8 would take half" if info.dtype == "float16" else "")
    )


def _in_words(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
