"""References: what a network sees in real images, with how that was made.

A reference holds three sets: training images, against which others are measured; images held out of them; and those
blurred. Its folder can be used again, for images that are measured by the same protocol:

    reference.json        the manifest
    training.safetensors  features; also held-out.safetensors and blurred.safetensors
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..config import differences
from ..errors import DataError
from ..files import make_folder
from ..latents.format import fraction
from .controls import blurred
from .estimates import need
from .figures import LEAST_IMAGES
from .measuring import Measuring, Protocol
from .moments import Moments
from .pictures import Counts, Picture
from .sets import FeatureSet
from .sources import IMAGES, Source, npz_array, npz_names
from .stored import read_versioned, write_versioned

MANIFEST = "reference.json"
HELD_OUT_SHARE = 0.2
STATISTICS = {"moments": ("mu", "sigma"), "spatial_moments": ("mu_s", "sigma_s")}  # in an .npz of ADM's evaluator


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """reference.json.

    Attributes:
        network: the feature network, as it is asked for.
        protocol: how images were measured.
        source: the folder or file of the images.
        held_out_source: of the held-out images, where they are others.
        held_out: which images are held out, in words.
        training_images: images that others are measured against.
        held_out_images: images held out.
        unreadable: images that could not be read.
        small: images left out for being smaller than the size.
        statistics: whether means and covariances are those that an .npz brought with it.
        inputs: a hash of what it was made from.
        versions: of the software.
    """

    network: str
    protocol: Protocol
    source: str
    held_out_source: str | None
    held_out: str
    training_images: int
    held_out_images: int
    unreadable: int
    small: int
    statistics: bool
    inputs: str
    versions: tuple[str, ...]

    def check(self, protocol: Protocol, folder: Path) -> None:
        """Refuse to measure by another protocol.

        Raises:
            DataError: with the differences.
        """
        found = list(differences(self.protocol, protocol))
        if found:
            raise DataError(
                f"{folder} was made by another protocol (its own → the one asked for): {'; '.join(found)}",
                wanted="images measured as the reference's were",
                fix="leave those options out, or make another reference from the images: anyres reference",
            )


def read_manifest(folder: Path) -> Manifest:
    """Read a reference's manifest.

    Raises:
        DataError: it is missing, damaged or of another version.
    """
    return read_versioned(folder / MANIFEST, Manifest, "make the reference again: anyres reference")


@dataclass(frozen=True, eq=False, kw_only=True)
class Reference:
    """Real images as a network sees them.

    Attributes:
        manifest: how it was made.
        training: the images that others are measured against.
        held_out: real images that are not among them.
        blurred: those, blurred, in the same order.
    """

    manifest: Manifest
    training: FeatureSet
    held_out: FeatureSet
    blurred: FeatureSet

    def save(self, folder: Path) -> None:
        """Write the folder; the manifest last.

        Raises:
            DataError: the disk refuses.
        """
        make_folder(folder)
        (folder / MANIFEST).unlink(missing_ok=True)
        for name, part in self._parts().items():
            part.save(folder / f"{name}.safetensors")
        write_versioned(folder / MANIFEST, self.manifest)

    @classmethod
    def load(cls, folder: Path) -> "Reference":
        """Read what `save` wrote.

        Raises:
            DataError: it is missing, damaged or of another version.
        """
        manifest = read_manifest(folder)
        names = ("training", "held-out", "blurred")
        try:
            parts = {name: FeatureSet.load(folder / f"{name}.safetensors") for name in names}
        except DataError as error:  # with its manifest there, the reference would not be made again
            fix = f"remove {folder}, and run the command that made it again"
            raise DataError(error.got, wanted=error.wanted, fix=fix) from error
        return cls(manifest=manifest, training=parts["training"], held_out=parts["held-out"], blurred=parts["blurred"])

    def _parts(self) -> dict[str, FeatureSet]:
        return {"training": self.training, "held-out": self.held_out, "blurred": self.blurred}


@dataclass(frozen=True, eq=False, kw_only=True)
class ReferencePlan:
    """What a reference is made from.

    Attributes:
        source: real images.
        held_out: images that are not among those; None: some of them are held out.
        share: about which share, chosen by their content as `anyres train` chooses its own: at an equal share these are
            the images that it never trained on.
        seed: of what is chosen at random.
    """

    source: Source
    held_out: Source | None
    share: float
    seed: int

    @property
    def inputs(self) -> str:
        """A hash of all this, and of the files' stamps."""
        found = hashlib.sha256(f"{self.share};{self.seed};".encode())
        for part in (self.source, self.held_out):
            if part is not None:
                found.update("\n".join([str(part.where.resolve()), *part.stamps, ""]).encode())
        return found.hexdigest()


def make_reference(plan: ReferencePlan, measuring: Measuring, network: str) -> Reference:
    """Measure real images, and set some of them apart.

    Args:
        plan: the images.
        measuring: network and framing.
        network: as it is asked for.

    Raises:
        DataError: too few images that can be measured, or too few held out.
    """
    source, held_out, share = plan.source, plan.held_out, plan.share

    def with_blur(picture: Picture) -> list[tuple[int, Picture]]:
        return [(1, picture), (2, replace(picture, pixels=blurred(picture.pixels)))]

    def route(picture: Picture) -> list[tuple[int, Picture]]:
        apart = held_out is None and fraction(picture.content_hash) < share
        return with_blur(picture) if apart else [(0, picture)]

    (training, apart, blurs), counts = measuring.collect_parts(source, "reference", route, parts=3)
    measured = training.count + apart.count
    if held_out is not None:
        (_, apart, blurs), others = measuring.collect_parts(held_out, "held-out images", with_blur, parts=3)
        counts = Counts(unreadable=counts.unreadable + others.unreadable, small=counts.small + others.small)
        words = f"the {apart.count:,} images of {held_out.where}"
    else:
        words = f"{apart.count:,} of {measured:,}, chosen by a hash of their content at a share of {share:g}"
    statistics = _statistics(source.where, training)
    _check_counts(training, apart, counts, source, held_out)
    manifest = Manifest(
        network=network,
        protocol=measuring.protocol,
        source=str(source.where.resolve()),
        held_out_source=None if held_out is None else str(held_out.where.resolve()),
        held_out=words,
        training_images=training.count,
        held_out_images=apart.count,
        unreadable=counts.unreadable,
        small=counts.small,
        statistics=bool(statistics),
        inputs=plan.inputs,
        versions=(f"anyres {__version__}", f"torch {torch.__version__}"),
    )
    return Reference(manifest=manifest, training=replace(training, **statistics), held_out=apart, blurred=blurs)


def _statistics(path: Path, training: FeatureSet) -> dict[str, Moments]:
    """The means and covariances in an .npz of ADM's evaluator, which are of more images than it holds.

    They are of Inception's features of the images as they are: none for other features, or images of another size.
    """
    if path.suffix != ".npz" or (training.sizes != npz_array(path, IMAGES).shape[1:3]).any():
        return {}
    dim, names = training.features.shape[1], set(npz_names(path))
    found = {
        name: [npz_array(path, array).astype(np.float64) for array in arrays]
        for name, arrays in STATISTICS.items()
        if set(arrays) <= names
    }
    if "moments" not in found or [part.shape for part in found["moments"]] != [(dim,), (dim, dim)]:
        return {}
    return {name: Moments.known(*parts) for name, parts in found.items()}


def _check_counts(
    training: FeatureSet, apart: FeatureSet, counts: Counts, source: Source, held_out: Source | None
) -> None:
    what = f"a reference from {source.where}{counts.left_out}"
    need(training.count, LEAST_IMAGES, what, f"use more images{counts.remedy}")
    need(
        apart.count,
        LEAST_IMAGES,
        f"the controls, held out of {source.where if held_out is None else held_out.where}{counts.left_out}",
        f"use more images, a larger --held-out-share, or a folder of others (--held-out){counts.remedy}",
    )
