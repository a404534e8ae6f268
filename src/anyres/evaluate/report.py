"""An evaluation's folder.

report.json       the `Evaluation`
report.html       the same as a page that opens offline
made.safetensors  what the network sees in the images
reference/        the reference, where it was made for this
samples/          the images, where a model made them
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import DataError
from .bench import Bench, NamedPictures
from .page import evaluation_page
from .pictures import Framing
from .results import Evaluation
from .sets import FeatureSet
from .sources import Source
from .stored import read_versioned, write_text, write_versioned

REPORT, PAGE, MADE, REFERENCE, SAMPLES = "report.json", "report.html", "made.safetensors", "reference", "samples"
SHEET_IMAGES = 48  # on the page, of made and of real ones


def write_report(folder: Path, result: Evaluation, found: FeatureSet, source: Source, bench: Bench) -> None:
    """Write an evaluation's folder; report.json last, by which it is known to be whole.

    Args:
        folder: which exists.
        result: what was found.
        found: the made images' features.
        source: the made images.
        bench: what they were measured by.

    Raises:
        DataError: the disk refuses.
    """
    (folder / REPORT).unlink(missing_ok=True)
    found.save(folder / MADE)
    real, held_out = bench.real_pictures(), bench.reference.held_out.spread(SHEET_IMAGES)
    first = sheet_pictures(source, found, bench.measuring.framing)
    # a file may have gone since it was measured
    beside = [one for one in result.nearest if one.made in first]
    page = evaluation_page(
        replace(result, nearest=tuple(beside)),
        made=[first[neighbour.made] for neighbour in beside],
        nearest=[real.training(neighbour.training) for neighbour in beside],
        real=[picture for name in held_out.names if (picture := real.held_out(name))],
    )
    write_text(folder / PAGE, page)
    write_versioned(folder / REPORT, result)


def sheet_pictures(source: Source, found: FeatureSet, framing: Framing) -> dict[str, Image.Image]:
    """Some of the measured pictures, which nobody has picked, by their names; those that are still there."""
    named = NamedPictures(source, framing)
    read = ((name, named.read(name)) for name in found.spread(SHEET_IMAGES).names)
    return {name: picture for name, picture in read if picture is not None}


def read_report(folder: Path) -> Evaluation:
    """Read an evaluation's report.json.

    Raises:
        DataError: it is missing, damaged, or of another version.
    """
    return read_versioned(folder / REPORT, Evaluation, "evaluate again")


def kept_report(folder: Path, settings: dict[str, Any]) -> Evaluation | None:
    """The evaluation that is in a folder, if it was made with these settings."""
    try:
        found = read_report(folder)
    except DataError:
        return None
    return found if found.settings == settings else None
