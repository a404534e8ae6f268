"""What an evaluation finds: the values of report.json, which the page shows."""

from dataclasses import dataclass, field
from typing import Any

from .estimates import Interval
from .signatures import Check


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The metrics of one set of images against the reference's training images, each with a 95% interval.

    Attributes:
        images: number of images.
        kid: kernel distance; unbiased, so it can be below 0.
        frechet: Fréchet distance, from 5,000 images on.
        spatial_frechet: the same of features that keep their place (sFID), from 5,000 images on.
        inception_score: None by a network without classes.
        precision: see `metrics.Neighbourhoods`, as the next ones.
        recall: of the training images.
        density: of the set's images.
        coverage: of the training images.
    """

    images: int
    kid: Interval
    frechet: Interval | None
    spatial_frechet: Interval | None
    inception_score: Interval | None
    precision: Interval
    recall: Interval
    density: Interval
    coverage: Interval


@dataclass(frozen=True, kw_only=True)
class Column:
    """A set of images measured at the number of images that all columns share.

    Attributes:
        name: "made", "held-out", "collapse" or "blur".
        what: how the set came about, in a sentence.
        figures: its metrics.
    """

    name: str
    what: str
    figures: Figures


@dataclass(frozen=True, kw_only=True)
class Separation:
    """Whether a metric tells real held-out images from made failures: where it does not, its figure proves nothing.

    Attributes:
        metric: a field of `Figures`.
        collapse: whether the intervals of held-out and collapse lie apart, on the side that the metric calls worse.
        blur: the same of the blur.
    """

    metric: str
    collapse: bool
    blur: bool


@dataclass(frozen=True, kw_only=True)
class Group:
    """Images of one size, shape or label against the reference's training images of the same.

    Attributes:
        name: of the group.
        images: made images in it.
        reference_images: training images in it.
        kid: None where one of them is too few.
        held_out_kid: of the held-out images in the group, for comparison; None where they are too few.
    """

    name: str
    images: int
    reference_images: int
    kid: Interval | None
    held_out_kid: Interval | None


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A made image and the training image nearest to it by the network's features.

    Attributes:
        made: name of the made image.
        training: name of the training image.
        distance: between their features.
        typical: the share of held-out images that lie nearer to their own nearest training image.
    """

    made: str
    training: str
    distance: float
    typical: float


@dataclass(frozen=True, kw_only=True)
class Memorisation:
    """Whether made images lie nearer to training images than new real images do.

    Attributes:
        share: of the made images nearer to a training image than 1% of the held-out images are: about 0.01 where
            nothing was memorised.
        made: median distance of made images to their nearest training image.
        held_out: the same of held-out images.
    """

    share: Interval
    made: float
    held_out: float


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a set of images comes from.

    Attributes:
        name: what was asked for: a folder, a file, a model.
        kind: "folder", "npz", "model" or "saved reference".
        images: measured.
        unreadable: could not be read.
        small: left out for being smaller than the size.
        details: how they were sampled or split, in words, by name.
    """

    name: str
    kind: str
    images: int
    unreadable: int = 0
    small: int = 0
    details: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All that an evaluation found.

    Attributes:
        network: name of the feature network, part of each metric's name.
        network_input: how images are brought to its input.
        framing: how images were brought to one size.
        made: the images that were measured.
        reference: what they were measured against.
        headline: the field of `figures` to quote: "kid" below 5,000 images, "frechet" from there on.
        figures: of all made images.
        controls: made, held-out, collapse and blur, at the same number of images.
        separation: which metrics tell the controls apart.
        by_size: made images by the side of the square of their area; empty where all have one size.
        by_shape: by width to height, likewise.
        by_label: by label; empty where the two sets' labels do not match.
        nearest: nearest training images of the images on the sample sheet, in its order.
        memorisation: the same of all.
        signatures: checks for known failures.
        settings: the options.
        versions: of the software, and the device.
        reference_folder: where the reference's features are.
    """

    network: str
    network_input: str
    framing: str
    made: Origin
    reference: Origin
    headline: str
    figures: Figures
    controls: tuple[Column, ...]
    separation: tuple[Separation, ...]
    by_size: tuple[Group, ...]
    by_shape: tuple[Group, ...]
    by_label: tuple[Group, ...]
    nearest: tuple[Neighbour, ...]
    memorisation: Memorisation
    signatures: tuple[Check, ...]
    settings: dict[str, Any]
    versions: dict[str, str]
    reference_folder: str = ""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A metric of two sets of made images against the same reference.

    Attributes:
        metric: a field of `Figures`.
        a: of the first.
        b: of the second.
        difference: b − a; its interval draws the reference's images for both at once.
    """

    metric: str
    a: Interval
    b: Interval
    difference: Interval


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two evaluations side by side.

    Attributes:
        a: the first.
        b: the second.
        names: of the folders that they came from.
        images: number of images that both are compared at.
        differences: by metric.
    """

    a: Evaluation
    b: Evaluation
    names: tuple[str, str]
    images: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a sweep.

    Attributes:
        settings: the swept settings at it, by name, as text.
        figures: of its images.
        folder: its own evaluation, relative to the sweep's folder.
        reference: name of the held-out images of its reference, in `Sweep.held_out`.
    """

    settings: dict[str, str]
    figures: Figures
    folder: str
    reference: str


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """An evaluation at each combination of some settings.

    Attributes:
        axes: the swept settings' names and values, in order.
        points: one for each combination, in the order of the axes' product.
        held_out: the held-out images of each reference, the line to reach. Several sizes have several references, and
            then points compare within one only.
        network: name of the feature network.
        headline: the metric to look at.
        seconds: sampling and measuring of each point, in the same order; None where it was there already.
    """

    axes: dict[str, tuple[str, ...]]
    points: tuple[Point, ...]
    held_out: tuple[Column, ...]
    network: str
    headline: str
    seconds: tuple[float | None, ...] = ()
