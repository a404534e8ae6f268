"""What is on the page, and what its buttons do."""

import html
import importlib
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..config import require
from ..errors import AnyResError, BackendError
from ..grid import Size
from ..sample.pipeline import Pipeline
from ..sample.request import ImageRequest, SamplingSettings, make_requests
from ..sample.start import PLACES, STRENGTH, Start
from ..sample.writer import recipe_of, save_images
from .making import Maker, Making

SIDE = 256  # px; the side of the square of the offered shapes' area
SHAPES = {
    "square": 1.0,
    "landscape": 1.5,
    "portrait": 1 / 1.5,
    "wide": 2.0,
    "tall": 0.5,
    "panorama": 4.0,
}  # width/height
MOST_TOKENS = 16384  # of all images of a click
WAITING = 16  # clicks that may wait
KEPT = (600, 3600)  # seconds: how often old files of the page are looked for, and how old they may become
CSS = """
.gradio-container { max-width: 1200px !important; margin: auto; }
#pictures img { object-fit: contain; }
footer { display: none !important; }
"""

Update = tuple[Any, ...]


def gradio() -> Any:
    """The library of the page, which asks nobody for anything.

    Raises:
        BackendError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    try:
        return importlib.import_module("gradio")
    except ImportError as error:
        raise BackendError(
            f"the page needs gradio: {error}", wanted="the extra [demo]", fix="pip install 'anyres[demo]'"
        ) from error


class Page:
    """The page of one model.

    Args:
        pipe: the model.
        model: how it was named.
        out: also keep every picture there.
    """

    def __init__(self, pipe: Pipeline, model: str, out: Path | None = None) -> None:
        self._pipe, self._model, self._out, self._maker = pipe, model, out, Maker(pipe)
        self._gr = gradio()

    def close(self) -> None:
        """End whatever is being made."""
        self._maker.close()

    def blocks(self) -> Any:
        """The page as gradio's `Blocks`, with its queue."""
        gr, px = self._gr, self._pipe.px_per_token
        shapes = [(f"{name} {size}", str(size)) for name, size in self._shapes().items()]
        first = Size.parse(shapes[0][1])
        defaults = self._pipe.defaults
        with gr.Blocks(title=f"anyres: {self._model}", analytics_enabled=False, delete_cache=KEPT) as blocks:
            gr.Markdown(f"# {self._model}\nPick a label and a size, then **Make**. Sides are multiples of {px} px.")
            with gr.Row(equal_height=False):
                with gr.Column(scale=2, min_width=320):
                    names = list(self._pipe.labels.names)
                    label = gr.Dropdown(names, value=names[0], label="Label", elem_id="label")
                    shape = gr.Radio(shapes, value=str(first), label="Shape", elem_id="shape")
                    with gr.Row():
                        whole = {"precision": 0, "min_width": 90}
                        width = gr.Number(first.width, label="Width, px", elem_id="width", **whole)
                        height = gr.Number(first.height, label="Height, px", elem_id="height", **whole)
                        seed = gr.Number(0, label="Seed", elem_id="seed", **whole)
                    also = gr.CheckboxGroup(shapes, label="In these shapes as well", elem_id="also")
                    with gr.Row():
                        make = gr.Button("Make", variant="primary", min_width=90, elem_id="make")
                        another = gr.Button("Another", min_width=90, elem_id="another")
                        stop = gr.Button("Stop", variant="stop", min_width=90, elem_id="stop")
                    with gr.Accordion("Start from a picture", open=False):
                        sources = ["upload", "clipboard"]
                        picture = gr.Image(type="filepath", image_mode=None, sources=sources, show_label=False)
                        strength = gr.Slider(0, 1, STRENGTH, step=0.05, label="Strength: how much is made anew")
                        place = gr.Radio(list(PLACES), value="extend", label="Where the shape is another")
                    with gr.Accordion("How it samples", open=False, elem_id="how"):
                        most = max(100, defaults.steps), max(8, defaults.guidance)
                        steps = gr.Slider(1, most[0], defaults.steps, step=1, label="Steps", elem_id="steps")
                        guidance = gr.Slider(1, most[1], defaults.guidance, step=0.25, label="Guidance to the label")
                with gr.Column(scale=3, min_width=360):
                    view = {"columns": 2, "fit_columns": False, "height": 660, "object_fit": "contain"}
                    pictures = gr.Gallery(label="Pictures", format="png", elem_id="pictures", **view)
                    status = gr.Markdown("Nothing made yet.", elem_id="status")
                    files = gr.File(
                        label="Download: PNG, each with its recipe in it",
                        file_count="multiple",
                        interactive=False,
                        visible=False,
                        elem_id="files",
                    )
                    with gr.Accordion("Recipes", open=False):
                        recipes = gr.JSON(show_label=False)
            asked = [label, width, height, also, seed, steps, guidance, picture, strength, place]
            told = [pictures, status, files, recipes]
            how = {"concurrency_id": "make", "concurrency_limit": 1, "show_progress": "hidden"}
            shape.change(_sides, shape, [width, height], queue=False, show_progress="hidden")
            next_seed = another.click(lambda number: (number or 0) + 1, seed, seed, queue=False)
            running = [start(self._make, asked, told, **how) for start in (make.click, next_seed.then)]
            # told afterwards, or a last step would have the last word
            stop.click(None, cancels=running).then(lambda: "Stopped.", outputs=status, queue=False)
        return blocks.queue(max_size=WAITING)

    def _shapes(self) -> dict[str, Size]:
        """The offered shapes, of about one area."""
        ratios = {name: math.sqrt(ratio) for name, ratio in SHAPES.items()}
        sizes = {name: Size(round(SIDE / root), round(SIDE * root)) for name, root in ratios.items()}
        return {name: size.rounded(self._pipe.px_per_token) for name, size in sizes.items()}

    def _make(self, *asked: Any) -> Iterator[Update]:
        """What a click on Make does: what the page shows, again and again."""
        start = time.monotonic()
        try:
            requests, settings = self._asked(*asked)
            making = self._maker.make(requests, settings)
            try:
                for state in making:
                    if state.done:
                        yield from self._finished(state, requests, settings, time.monotonic() - start)
                    else:
                        yield self._preview(state)
            finally:
                making.close()
        except AnyResError as error:
            raise self._gr.Error(
                words(error), duration=None, title="That cannot be made", print_exception=False
            ) from error

    def _asked(
        self,
        label: str,
        width: int | None,
        height: int | None,
        also: Sequence[str],
        seed: int | None,
        steps: int,
        guidance: float,
        picture: str | None,
        strength: float,
        place: str,
    ) -> tuple[tuple[ImageRequest, ...], SamplingSettings]:
        """The fields as requests.

        Raises:
            AnyResError: they cannot be made.
        """
        require(width is not None and height is not None, "no width or height", "both, in px", "fill them in")
        own = Size(int(height or 0), int(width or 0))
        sizes = [own, *(size for size in map(Size.parse, also) if size != own)]
        requests = make_requests(
            label,
            sizes,
            seed or 0,
            table=self._pipe.labels,
            px_per_token=self._pipe.px_per_token,
            start=Start(picture, strength=strength, place=place) if picture else None,
        )
        tokens = sum(request.grid.tokens for request in requests)
        area = MOST_TOKENS * self._pipe.px_per_token**2
        require(
            tokens <= MOST_TOKENS,
            f"images of {sum(request.size.area for request in requests):,} px",
            f"at most {area:,} px together on this page",
            "choose smaller sizes or fewer shapes; the command line takes any",
        )
        return requests, self._pipe.defaults.changed(steps=int(steps), guidance=float(guidance))

    def _preview(self, state: Making) -> Update:
        """Every step tells how far it is; the pictures change where there is a new guess."""
        skip = self._gr.skip()
        text = f"Step {state.step} of {state.steps}. The pictures are guesses of what they become."
        shown = [image for image in state.images if image is not None]
        return shown if state.fresh else skip, text, skip, skip

    def _finished(
        self, state: Making, requests: Sequence[ImageRequest], settings: SamplingSettings, seconds: float
    ) -> Iterator[Update]:
        recipes = [recipe_of(self._pipe, settings, request, model=self._model) for request in requests]
        images = [image for image in state.images if image is not None]
        if self._out is not None:
            save_images(images, recipes, self._out)
        with tempfile.TemporaryDirectory() as folder:  # the page copies them
            saved = save_images(images, recipes, Path(folder))
            names = [str(path) for path in saved.paths]
            captions = [f"{recipe['label']} {recipe['size']}, seed {recipe['seed']}" for recipe in recipes]
            what = "1 picture" if len(names) == 1 else f"{len(names)} pictures"
            sheet = [str(saved.sheet)] if saved.sheet else []
            text = f"Made {what} in {seconds:.1f} s."
            yield list(zip(names, captions, strict=True)), text, self._gr.File([*names, *sheet], visible=True), recipes


def words(error: AnyResError) -> str:
    """An error as the page shows it."""
    got, wanted, fix = (html.escape(text) for text in (error.got, error.wanted, error.fix))
    return f"{got[:1].upper()}{got[1:]}<br>Wanted: {wanted}<br>To fix: {fix}"


def _sides(size: str) -> tuple[int, int]:
    parsed = Size.parse(size)
    return parsed.width, parsed.height
