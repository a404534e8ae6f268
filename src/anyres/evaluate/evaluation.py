"""One evaluation: a model or images, measured against a reference beside controls."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .. import __version__, noise
from ..config import require, to_dict
from ..errors import ConfigError, DataError
from ..files import make_folder
from ..grid import SHAPES, Size
from ..ranks import Ranks
from ..train.folder import device_name
from .bench import Bench, NamedPictures, set_up
from .controls import columns, separations
from .estimates import need
from .figures import LEAST_IMAGES, figures, groups, memorisation, nearest, size_groups
from .options import EvaluateOptions
from .pictures import Counts
from .presets import IMAGES
from .report import REFERENCE, SAMPLES, SHEET_IMAGES, kept_report, write_report
from .results import Evaluation, Figures, Origin
from .samples import SamplingRecord, make_samples, record, requests
from .sets import FRECHET_IMAGES, FeatureSet
from .signatures import Check, check_bleeding, check_pictures
from .sources import Source
from .subject import Subject, preset_of, require_model

DEFAULT_COUNT = 500
CHECKED = 200  # pictures a set that are checked for known failures
SAMPLING = (
    "preset", "count", "labels", "steps", "solver", "guidance", "interval", "extrapolation", "decoupled", "budget"
)  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class Made:
    """The images that are evaluated.

    Attributes:
        source: where they are.
        plan: what they were sampled with, or None.
    """

    source: Source
    plan: SamplingRecord | None


def evaluate(options: EvaluateOptions, subject: Subject, *, references: Path | None = None) -> Evaluation | None:
    """Evaluate images or a model, and write the report; one that is there, of the same, is left alone.

    Args:
        options: what to do.
        subject: what is evaluated.
        references: where a reference that is made is kept; by default in the report's folder.

    Returns:
        What was found; None in all processes but the first.

    Raises:
        AnyResError: bad input, as the parts raise it.
    """
    _refuse_idle_options(options, subject)
    framing = subject.framing(options)
    assert options.reference is not None  # noqa: S101 - the options ask for it
    make_folder(options.out)
    share = subject.trained_on.held_out if subject.trained_on else None
    bench = set_up(options, options.reference, framing, references or options.out / REFERENCE, share=share)
    made = _sampled(options, subject, bench) if subject.pipe else Made(source=_images(subject), plan=None)
    if Ranks.from_environment().rank > 0:
        return None
    settings = _settings(options, made, bench)
    kept = kept_report(options.out, settings)
    if kept is not None:
        return kept
    found, counts = bench.measuring.collect(made.source, "images")
    what = f"an evaluation of {subject.name}{counts.left_out}"
    need(found.count, LEAST_IMAGES, what, f"use more images{counts.remedy}")
    result = _result(options, subject, bench, made, found, counts, settings)
    write_report(options.out, result, found, made.source, bench)
    return result


def _refuse_idle_options(options: EvaluateOptions, subject: Subject) -> None:
    if subject.pipe is None:
        for name in SAMPLING:
            require(
                not _is_given(getattr(options, name)),
                f"--{name} for {subject.name}, which holds images",
                "a model, to be sampled",
                "leave it out, or name a model",
            )


def _is_given(value: Any) -> bool:
    return value is not None and value is not False  # 0 is a value


def _images(subject: Subject) -> Source:
    assert subject.source is not None  # noqa: S101 - it is no model
    return subject.source


def _sampled(options: EvaluateOptions, subject: Subject, bench: Bench) -> Made:
    """Images made now, or those of them that are there from the last time."""
    pipe = require_model(subject, "samples")
    framing, real = bench.measuring.framing, bench.reference.training
    require(
        framing.size is not None or framing.max_side is not None,
        f"no size to sample {subject.name} at",
        "one size, or the data's own sizes up to a bound",
        "add --size WIDTHxHEIGHT, or --max-side PX",
    )
    known = set(real.labels) <= set(pipe.labels.names)
    plan = record(
        pipe,
        subject.name,
        subject.settings(options),
        labels=options.labels or ("data" if known else "balanced"),
        size=framing.size,
        seed=options.seed,
        inputs=bench.reference.manifest.inputs,
    )
    count = options.count or (IMAGES if options.preset else DEFAULT_COUNT)
    need(count, LEAST_IMAGES, "an evaluation", "ask for more: --count")
    wanted = requests(pipe, count, plan, real)
    return Made(source=make_samples(pipe, wanted, plan, options.out / SAMPLES, budget=options.budget), plan=plan)


def _settings(options: EvaluateOptions, made: Made, bench: Bench) -> dict[str, Any]:
    """All that the figures depend on."""
    skipped = ("out", "compare", "sweep", "batch", "workers", "budget")
    given = {name: value for name, value in vars(options).items() if name not in skipped and _is_given(value)}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    files = hashlib.sha256("\n".join(made.source.names if made.plan else made.source.stamps).encode())
    return {
        **{name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()},
        "sampling": to_dict(made.plan) if made.plan else None,
        "protocol": to_dict(bench.measuring.protocol),
        "hash of the images": files.hexdigest()[:16],
        "hash of the reference": bench.reference.manifest.inputs[:16],
    }


def _result(
    options: EvaluateOptions,
    subject: Subject,
    bench: Bench,
    made: Made,
    found: FeatureSet,
    counts: Counts,
    settings: dict[str, Any],
) -> Evaluation:
    reference, seed = bench.reference, options.seed
    training, held_out = reference.training, reference.held_out
    whole = figures(found, training, seed=seed)
    controls = columns(found, training, held_out, reference.blurred, seed=seed, whole=whole)
    labelled = set(found.labels) & set(training.labels)
    return Evaluation(
        network=bench.measuring.network.name,
        network_input=bench.measuring.network.protocol,
        framing=str(bench.measuring.framing),
        made=Origin(
            name=subject.name,
            kind=subject.kind,
            images=found.count,
            unreadable=counts.unreadable,
            small=counts.small,
            details=_details(options, made),
        ),
        reference=Origin(
            name=str(options.reference),
            kind=_kind_of_reference(options, bench),
            images=training.count,
            unreadable=reference.manifest.unreadable,
            small=reference.manifest.small,
            details={"images": reference.manifest.source, "held out": reference.manifest.held_out}
            | ({"means and covariances": "as they came with the file"} if reference.manifest.statistics else {}),
        ),
        headline=_headline(options, whole, found, training),
        figures=whole,
        controls=controls,
        separation=separations(controls),
        by_size=groups(found, training, held_out, size_groups, seed=seed),
        by_shape=groups(found, training, held_out, _shapes, seed=seed, order=SHAPES),
        by_label=groups(found, training, held_out, lambda part: list(part.labels), seed=seed) if labelled else (),
        nearest=nearest(found.spread(SHEET_IMAGES), training, held_out),
        memorisation=memorisation(found, training, held_out, seed=seed),
        signatures=_signatures(options, subject, bench, made, found),
        settings=settings,
        versions={
            "anyres": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "device": device_name(bench.measuring.device),
        },
        reference_folder=str(bench.folder.resolve()),
    )


def _kind_of_reference(options: EvaluateOptions, bench: Bench) -> str:
    if bench.folder == options.reference:
        return "saved reference"
    return "npz" if options.reference and options.reference.suffix == ".npz" else "folder"


def _details(options: EvaluateOptions, made: Made) -> dict[str, str]:
    words = made.plan.words() if made.plan else {}
    preset = preset_of(options)
    return words | ({"preset": f"{options.preset}, {preset}"} if preset else {})


def _headline(options: EvaluateOptions, found: Figures, made: FeatureSet, training: FeatureSet) -> str:
    """The metric to quote: the one asked for, if these images can give it."""
    if options.headline is None:
        return "kid" if found.frechet is None else "frechet"
    if getattr(found, options.headline) is None:
        if options.headline == "inception_score":
            raise ConfigError(
                "an Inception Score was asked of a network without classes",
                wanted="a network that knows classes",
                fix="use --network inception or efficientnet-lite2",
            )
        need(min(made.count, training.count), FRECHET_IMAGES, f"the metric {options.headline}")
        raise DataError(
            f"{options.headline} was asked of images of several sizes",
            wanted="images of one size: its features keep their place",
            fix="add --size WIDTHxHEIGHT",
        )
    return options.headline


def _shapes(found: FeatureSet) -> list[str]:
    return [Size(height, width).shape for height, width in found.sizes.tolist()]


def _signatures(
    options: EvaluateOptions, subject: Subject, bench: Bench, made: Made, found: FeatureSet
) -> tuple[Check, ...]:
    """Checks for known failures, of some of the pictures and of as many real ones."""
    named, real = NamedPictures(made.source, bench.measuring.framing), bench.real_pictures()
    names = [*bench.reference.held_out.names, *bench.reference.training.names]
    ours = (named.read(name) for name in _some(found.names, options))
    theirs = (real.held_out(name) or real.training(name) for name in _some(names, options))
    checks = check_pictures(
        _pixels(ours),
        _pixels(theirs) or None,
        bench.measuring.network,
        subject.trained_side(options),
        seed=options.seed,
    )
    if subject.pipe is None:
        return checks
    sizes = [Size(*size).grid(subject.pipe.px_per_token) for size in found.sizes[:3].tolist()]
    labels = [subject.pipe.labels.number(label) for label in found.labels[:3]]
    return (check_bleeding(subject.pipe.model, sizes, labels), *checks)


def _some(names: tuple[str, ...] | list[str], options: EvaluateOptions) -> list[str]:
    order = noise.generator(options.seed, "checked").permutation(len(names))[:CHECKED]
    return [names[i] for i in sorted(order.tolist())]


def _pixels(pictures: Any) -> list[np.ndarray]:
    return [np.asarray(picture) for picture in pictures if isinstance(picture, Image.Image)]
