"""Two evaluations side by side: differences of their metrics, with intervals."""

from pathlib import Path

import numpy as np
from PIL import Image

from .. import noise
from ..config import differences
from ..errors import DataError
from ..files import make_folder
from .figures import METRICS, estimates
from .page import comparison_page
from .reference import Manifest, Reference, read_manifest
from .report import MADE, PAGE, SAMPLES, read_report, sheet_pictures
from .results import Comparison, Difference, Evaluation
from .sets import FeatureSet
from .sources import open_source
from .stored import write_text, write_versioned

COMPARISON = "comparison.json"


def compare(a: Path, b: Path, out: Path, *, seed: int) -> Comparison:
    """Compare two evaluations, and write the comparison.

    Both are taken at the same number of images. Each draw of the reference's images serves both; their own images are
    drawn apart.

    Args:
        a: an evaluation's folder.
        b: another.
        out: folder of comparison.json and report.html.
        seed: of the draws.

    Raises:
        DataError: one is missing, or they were not measured against the same images by the same protocol.
    """
    reports = read_report(a), read_report(b)
    reference = _reference(reports, (a, b))
    sets = FeatureSet.load(a / MADE), FeatureSet.load(b / MADE)
    count = min(len(found) for found in sets)
    found = [
        estimates(_some(part, count, seed), reference.training, seed=seed, stream=stream)
        for stream, part in enumerate(sets)
    ]
    result = Comparison(
        a=reports[0],
        b=reports[1],
        names=(str(a), str(b)),
        images=count,
        differences=tuple(
            Difference(metric=name, a=first.interval, b=second.interval, difference=(second - first).interval)
            for name in METRICS
            if (first := found[0][name]) is not None and (second := found[1][name]) is not None
        ),
    )
    make_folder(out)
    sheets = [
        _sheet(folder, report, part, reference) for folder, report, part in zip((a, b), reports, sets, strict=True)
    ]
    write_text(out / PAGE, comparison_page(result, a=sheets[0], b=sheets[1]))
    write_versioned(out / COMPARISON, result)
    return result


def _reference(reports: tuple[Evaluation, Evaluation], folders: tuple[Path, Path]) -> Reference:
    """What both were measured against."""
    places = [Path(report.reference_folder) for report in reports]
    first, second = (read_manifest(place) for place in places)
    found = list(differences(first.protocol, second.protocol))
    if first.inputs != second.inputs:
        found.append(f"reference: {_words(first)} → {_words(second)}")
    if found:
        raise DataError(
            f"{folders[0]} and {folders[1]} were not measured alike (the first's → the second's): {'; '.join(found)}",
            wanted="evaluations against the same images by the same protocol",
            fix="evaluate one of them again, with the other's --reference and options",
        )
    return Reference.load(places[0])


def _words(manifest: Manifest) -> str:
    return f"{manifest.source} with {manifest.training_images} images"


def _some(found: FeatureSet, count: int, seed: int) -> FeatureSet:
    if len(found) == count:
        return found
    return found.take(np.sort(noise.generator(seed, "compared").permutation(len(found))[:count]))


def _sheet(folder: Path, report: Evaluation, found: FeatureSet, reference: Reference) -> list[Image.Image]:
    """Some pictures of an evaluation, where they still are."""
    try:
        source = open_source(folder / SAMPLES if report.made.kind == "model" else Path(report.made.name))
    except DataError:
        return []
    return list(sheet_pictures(source, found, reference.manifest.protocol.framing).values())
