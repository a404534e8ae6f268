"""`anyres sample`: load, sample with a progress bar, write; in one process or several."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from PIL import Image

from .. import hub
from ..config import require
from ..errors import ConfigError
from ..files import check_writable, make_folder
from ..model import lora
from ..model.nit import NiT
from ..progress import progress
from ..ranks import Ranks
from .folder import model_folder
from .options import MergeOptions, SampleOptions, StartOptions
from .pipeline import Pipeline, StepInfo
from .request import ImageRequest, make_requests, together
from .start import Start
from .writer import SavedImages, free_paths, recipe_of, write_images, write_sheet


def run(options: SampleOptions) -> SavedImages | None:
    """Make the images that the options ask for and write them, a pack after another.

    Several processes share the packs, which are those of one, so that the files are the same.

    Returns:
        What was written by all processes; None in all but the leading one.

    Raises:
        AnyResError: bad input, as the parts raise it.
    """
    ranks = Ranks.from_environment()
    options = replace(options, device=ranks.device(options.device))
    pipe = Pipeline.from_pretrained(
        options.model, device=options.device, dtype=options.dtype, attention=options.attention
    )
    settings = pipe.defaults.changed(**options.given())
    requests = _requests(pipe, options)
    weaker = _weaker(pipe, options)
    check_writable(options.out)
    recipes = [recipe_of(pipe, settings, request, model=options.model, weaker=options.weaker) for request in requests]
    # before any is written, and as one of them sees the folder
    paths = ranks.told(free_paths(recipes, options.out, overwrite=options.overwrite))
    packs = pipe.packs(requests, options.budget)
    ends = list(accumulate(map(len, packs)))
    mine = ranks.share(len(packs))
    with progress("sample", len(mine) * settings.steps, "step", shown=ranks.rank == 0) as bar:
        for number in mine:

            def on_step(_info: StepInfo, number: int = number) -> None:
                bar.advance(1, pack=f"{number + 1}/{len(packs)}")

            pack, those = packs[number], slice(ends[number] - len(packs[number]), ends[number])
            latents = pipe.latents(pack, settings, budget=options.budget, weaker=weaker, on_step=on_step)
            images = pipe.images(latents, pack)
            make_folder(options.out)
            write_images(images, recipes[those], paths[those])
    ranks.wait()
    if ranks.rank > 0:
        return None
    sheet = None
    if options.contact_sheet and len(paths) > 1:
        images = [Image.open(path).convert("RGB") for path in paths]
        sheet = write_sheet(images, recipes, options.out, overwrite=options.overwrite)
    return SavedImages(paths=paths, sheet=sheet)


def merge(options: MergeOptions) -> str:
    """Write an adapter and its base as a model that needs neither; says where it is.

    Raises:
        ConfigError: it is no adapter.
        AnyResError: it cannot be read or written.
    """
    folder = model_folder(hub.resolve(options.adapter))
    require(
        (folder / lora.CONFIG).is_file(),
        f"{options.adapter}, which is no adapter",
        f"a folder with {lora.CONFIG}, as training with LoRA writes it",
        "use it as it is",
    )
    Pipeline.from_pretrained(folder, device="cpu", dtype="float32").save_pretrained(options.out)
    return f"merged: {options.out}"


def _requests(pipe: Pipeline, options: SampleOptions) -> tuple[ImageRequest, ...]:
    """Each label, size and picture with its seed, `count` times with consecutive seeds."""
    start = _starts(options.start)
    sizes = options.size or (None if start else ("256x256",))
    combinations = max(len(options.label), len(sizes or ()), len(start or ()), len(options.seed))
    seeds: Sequence[int] = options.seed or range(0, combinations * options.count, options.count)
    requests = make_requests(
        options.label,
        sizes,
        list(seeds),
        table=pipe.labels,
        px_per_token=pipe.px_per_token,
        round_size=options.round_size,
        start=start,
    )
    return tuple(replace(request, seed=request.seed + i) for request in requests for i in range(options.count))


def _starts(options: StartOptions) -> list[Start] | None:
    """The pictures to start from; one of several places on one picture reads it once a place."""
    if not options.from_:
        return None
    given = {"--from": options.from_, "--strength": options.strength, "--mask": options.mask, "--place": options.place}
    columns = together({name: list(column) for name, column in given.items() if column})
    count = len(columns["--from"])
    rows = zip(*(columns.get(name, [None] * count) for name in given), strict=True)
    return [
        Start(picture, strength=strength, mask=mask, place=place, paste=options.paste)
        for picture, strength, mask, place in rows
    ]


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
