"""What an evaluation measures by: the feature network, the framing, and the reference, found or made."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..config import require
from ..devices import pick_device
from ..errors import DataError
from ..grid import Size
from ..networks.features import load_network
from ..prepare.images import RejectedImageError
from ..ranks import Ranks
from .measuring import Measuring
from .options import MeasuringOptions, ReferenceOptions
from .pictures import Framing
from .reference import HELD_OUT_SHARE, MANIFEST, Manifest, Reference, ReferencePlan, make_reference, read_manifest
from .sources import Source, open_source

DEFAULT_NETWORK = "efficientnet-lite2"
BATCH = {"cpu": 4, "mps": 16, "cuda": 64}  # on a CPU large batches leave the caches, and are slower an image


@dataclass(frozen=True, eq=False, kw_only=True)
class Bench:
    """What to measure by.

    Attributes:
        measuring: network and framing.
        reference: real images.
        folder: where the reference is kept.
    """

    measuring: Measuring
    reference: Reference
    folder: Path

    def real_pictures(self) -> "RealPictures":
        """The reference's images themselves, where they still are."""
        return RealPictures(self.reference.manifest, self.measuring.framing)


class NamedPictures:
    """Pictures of a source by their names, as they are measured.

    Args:
        source: the images.
        framing: how they are brought to size.
    """

    def __init__(self, source: Source, framing: Framing) -> None:
        self._source, self._framing = source, framing
        self._places = {name: i for i, name in enumerate(source.names)}

    def read(self, name: str) -> Image.Image | None:
        """A picture, or None for one that is not there any more, or cannot be measured."""
        if name not in self._places:
            return None
        try:
            return self._framing.apply(self._source.read(self._places[name]).pixels)
        except RejectedImageError:
            return None


class RealPictures:
    """Pictures of a reference by their names, from the folder that it was made from."""

    def __init__(self, manifest: Manifest, framing: Framing) -> None:
        self._training, self._held_out = (
            _opened(Path(place), framing) for place in (manifest.source, manifest.held_out_source or manifest.source)
        )

    def training(self, name: str) -> Image.Image | None:
        """A training image as it was measured, or None where it is no longer there."""
        return self._training and self._training.read(name)

    def held_out(self, name: str) -> Image.Image | None:
        """A held-out image, likewise."""
        return self._held_out and self._held_out.read(name)


def set_up(
    options: MeasuringOptions, reference: Path, framing: Framing | None, cache: Path, *, share: float | None = None
) -> Bench:
    """Load the network, and find or make the reference.

    Args:
        options: how to measure.
        reference: real images, or a saved reference.
        framing: the framing asked for; None: a saved reference's own, or each image at its own size.
        cache: folder in which a reference that is made is kept for the next time.
        share: of the images to hold out, where the options do not say.

    Raises:
        DataError: the reference was made by another protocol, or cannot be read or made.
        ConfigError: an unknown network, or a split asked of a saved reference.
        BackendError: the network's package, or the device, is missing.
    """
    if (reference / MANIFEST).is_file():
        saved = read_manifest(reference)
        for name in ("held_out", "held_out_share"):
            require(
                getattr(options, name) is None,
                f"--{name.replace('_', '-')} with a saved reference, which holds out {saved.held_out}",
                "a folder of images as the reference",
                "leave it out, or make another reference: anyres reference",
            )
        measuring = _measuring(options, options.network or saved.network, framing or saved.protocol.framing)
        saved.check(measuring.protocol, reference)
        return Bench(measuring=measuring, reference=Reference.load(reference), folder=reference)
    measuring = _measuring(options, options.network or DEFAULT_NETWORK, framing or Framing())
    plan = _plan(options, reference, share)
    ranks = Ranks.from_environment()
    if ranks.rank == 0 and not _is_kept(cache, measuring, plan):
        make_reference(plan, measuring, options.network or DEFAULT_NETWORK).save(cache)
    ranks.wait()
    return Bench(measuring=measuring, reference=Reference.load(cache), folder=cache)


def save_reference(options: ReferenceOptions) -> Manifest:
    """`anyres reference`: measure real images and keep what was found; one that is there already is left alone.

    Raises:
        DataError: the folder holds something else, or the images are too few.
        AnyResError: other bad input, as the parts raise it.
    """
    framing = Framing(
        size=Size.parse(options.size) if options.size else None,
        max_side=options.max_side,
        multiple=options.multiple or 1,
        upscale=options.upscale,
    )
    measuring = _measuring(options, options.network or DEFAULT_NETWORK, framing)
    plan = _plan(options, options.images, None)
    if (options.out / MANIFEST).is_file():
        kept = read_manifest(options.out)
        kept.check(measuring.protocol, options.out)
        if kept.inputs != plan.inputs:
            raise DataError(
                f"{options.out} holds a reference of other images, or of another split of them",
                wanted="a new folder",
                fix="choose another --out, or remove that folder",
            )
        return kept
    if options.out.is_dir() and any(options.out.iterdir()):
        raise DataError(f"{options.out} is not empty", wanted="a new folder", fix="choose another --out")
    made = make_reference(plan, measuring, options.network or DEFAULT_NETWORK)
    made.save(options.out)
    return made.manifest


def _measuring(options: MeasuringOptions, network: str, framing: Framing) -> Measuring:
    device = pick_device(Ranks.from_environment().device(options.device))
    return Measuring(
        network=load_network(network, device, options.weights),
        device=device,
        framing=framing,
        batch=options.batch or BATCH[device.type],
        workers=options.workers,
        seed=options.seed,
    )


def _plan(options: MeasuringOptions, images: Path, share: float | None) -> ReferencePlan:
    return ReferencePlan(
        source=open_source(images),
        held_out=open_source(options.held_out) if options.held_out else None,
        share=options.held_out_share or share or HELD_OUT_SHARE,
        seed=options.seed,
    )


def _is_kept(cache: Path, measuring: Measuring, plan: ReferencePlan) -> bool:
    """Whether what would be made is there from the last time."""
    try:
        kept = read_manifest(cache)
    except DataError:
        return False
    return kept.inputs == plan.inputs and kept.protocol == measuring.protocol


def _opened(path: Path, framing: Framing) -> NamedPictures | None:
    try:
        return NamedPictures(open_source(path), framing)
    except DataError:  # it is not needed for the figures
        return None
