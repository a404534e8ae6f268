"""`anyres sample`: load, sample with a progress bar, write."""

from collections.abc import Sequence
from dataclasses import replace

from ..errors import ConfigError
from ..files import check_writable
from ..model.nit import NiT
from ..progress import progress
from .options import SampleOptions
from .pipeline import Pipeline, StepInfo
from .request import ImageRequest, make_requests
from .writer import SavedImages, recipe_of, save_images


def run(options: SampleOptions) -> SavedImages:
    """Make the images that the options ask for and write them.

    Raises:
        AnyResError: bad input, as the parts raise it.
    """
    pipe = Pipeline.from_pretrained(
        options.model, device=options.device, dtype=options.dtype, attention=options.attention
    )
    settings = pipe.defaults.changed(**options.given())
    requests = _requests(pipe, options)
    weaker = _weaker(pipe, options)
    check_writable(options.out)
    packs = pipe.packs(requests, options.budget)
    with progress("sample", len(packs) * settings.steps, "step") as bar:

        def on_step(info: StepInfo) -> None:
            bar.advance(1, pack=f"{info.pack + 1}/{info.packs}")

        latents = pipe.latents(requests, settings, budget=options.budget, weaker=weaker, on_step=on_step)
    images = pipe.decode(latents)
    recipes = [recipe_of(pipe, settings, request, model=options.model, weaker=options.weaker) for request in requests]
    return save_images(images, recipes, options.out, contact_sheet=options.contact_sheet, overwrite=options.overwrite)


def _requests(pipe: Pipeline, options: SampleOptions) -> tuple[ImageRequest, ...]:
    """Each label and size with its seed, `count` times with consecutive seeds."""
    combinations = max(len(options.label), len(options.size), len(options.seed))
    seeds: Sequence[int] = options.seed or range(0, combinations * options.count, options.count)
    requests = make_requests(
        options.label,
        options.size,
        list(seeds),
        table=pipe.labels,
        px_per_token=pipe.px_per_token,
        round_size=options.round_size,
    )
    return tuple(replace(request, seed=request.seed + i) for request in requests for i in range(options.count))


def _weaker(pipe: Pipeline, options: SampleOptions) -> NiT | None:
    if options.weaker is None:
        return None
    other = Pipeline.from_pretrained(
        options.weaker, device=options.device, dtype=options.dtype, attention=options.attention
    )
    if (
        other.labels != pipe.labels
        or other.px_per_token != pipe.px_per_token
        or not other.autoencoder.identity.same_as(pipe.autoencoder.identity)
    ):
        raise ConfigError(
            f"{options.weaker} has other labels, tokens or autoencoder than {options.model}",
            wanted="a weaker model of the same data",
            fix="use an earlier or smaller model that was trained on the same dataset",
        )
    return other.model
