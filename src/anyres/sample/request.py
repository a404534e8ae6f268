"""What is asked for: labels, sizes, seeds, and how to sample."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..config import from_dict, require, suggestion, to_dict
from ..errors import ConfigError
from ..flow.given import SAME_TIME
from ..flow.guidance import GuidanceConfig
from ..flow.time import shifted_times, solver_times, stochastic_times
from ..grid import Grid, Size
from ..model.rope import RotaryMode
from ..packing.pack import PackShape
from .canvas import Canvas
from .start import Start

Solver = Literal["euler", "heun", "sde"]


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How to sample; shared by all images of a call.

    Attributes:
        steps: solver steps.
        solver: "euler", "heun", or "sde" (Euler–Maruyama).
        guidance: scale of classifier-free guidance; 1 is none.
        guidance_low: least t at which guidance acts.
        guidance_high: greatest t at which guidance acts.
        last_time: of "sde": t of the last step's start, which has no noise; before times are moved by size, where the
            model's are.
        extrapolation: how the rotary embedding treats grids larger than those of training.
        decoupled: extrapolate each axis by its own ratio.
    """

    steps: int = 50
    solver: Solver = "euler"
    guidance: float = 2.25
    guidance_low: float = 0.0
    guidance_high: float = 0.7
    last_time: float = 0.04
    extrapolation: RotaryMode = "normal"
    decoupled: bool = False

    def __post_init__(self) -> None:
        least = 2 if self.solver == "sde" else 1
        require(self.steps >= least, f"{self.steps} steps", f"at least {least} for solver {self.solver}")
        for name, value, known in (
            ("solver", self.solver, Solver.__args__),
            ("extrapolation", self.extrapolation, RotaryMode.__args__),
        ):
            require(
                value in known,
                f"{name} {value!r}",
                f"one of {', '.join(known)}",
                suggestion(value, known) or "use one of them",
            )
        require(0 < self.last_time < 1, f"last_time = {self.last_time}", "between 0 and 1")
        self.guidance_config()  # checks scale and interval

    def changed(self, *, guidance_interval: tuple[float, float] | None = None, **given: Any) -> "SamplingSettings":
        """These settings with those that are given; None means unchanged.

        Args:
            guidance_interval: least and greatest t at which guidance acts: both fields as one.
            **given: other fields.

        Raises:
            ConfigError: a value of the wrong type, or settings that do not go together.
        """
        low, high = guidance_interval or (None, None)
        given = {"guidance_low": low, "guidance_high": high, **given}
        known = {name: value for name, value in given.items() if value is not None}
        return from_dict(SamplingSettings, to_dict(self) | known, where="settings")

    def times(self, factor: float = 1.0) -> tuple[float, ...]:
        """Of the steps' ends, from 1 to 0.

        Args:
            factor: by which the images' times are moved; see `flow.time.TimeShift`.
        """
        uniform = stochastic_times(self.steps, self.last_time) if self.solver == "sde" else solver_times(self.steps)
        return shifted_times(uniform, factor)

    def check_strengths(self, strengths: Iterable[float], factor: float = 1.0) -> None:
        """See that each strength, where it is not 0, leaves a step.

        Raises:
            ConfigError: the last step starts at a greater t.
        """
        last = self.times(factor)[-2]
        for strength in strengths:
            require(
                not 0 < strength < last - SAME_TIME,
                f"strength {strength} in {self.steps} steps, of which the last starts at t = {last:g}",
                f"a strength of at least {last:g}",
                "raise the strength or the number of steps",
            )

    def guidance_config(self) -> GuidanceConfig:
        """Scale and interval."""
        return GuidanceConfig(scale=self.guidance, low=self.guidance_low, high=self.guidance_high)


@dataclass(frozen=True)
class LabelTable:
    """Names of the classes; the index is the class number."""

    names: tuple[str, ...]

    def number(self, label: str | int) -> int:
        """The class number of a name, or of a number, also written as text; a name goes first.

        Raises:
            ConfigError: there is no such class; close names are offered.
        """
        if isinstance(label, str):
            if label in self.names:
                return self.names.index(label)
            if not label.strip().isdecimal():
                some = ", ".join(self.names[:8]) + (", …" if len(self.names) > 8 else "")
                raise ConfigError(
                    f"there is no label {label!r}",
                    wanted=f"one of {some}, or a number below {len(self.names)}",
                    fix=suggestion(label, self.names) or "see labels.json in the model's folder",
                )
            label = int(label)
        if not 0 <= label < len(self.names):
            raise ConfigError(
                f"there is no label number {label}", wanted=f"0 to {len(self.names) - 1}", fix="use one of these"
            )
        return label

    def name(self, number: int) -> str:
        """The name of a class."""
        return self.names[number]


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """One image to be made.

    Attributes:
        label: class number.
        size: px.
        grid: tokens.
        seed: of its noise.
        canvas: the picture that it starts from, laid on it; None where it is made from noise alone.
    """

    label: int
    size: Size
    grid: Grid
    seed: int
    canvas: Canvas | None = None


def make_requests(
    labels: str | int | Sequence[str | int],
    sizes: str | Size | Sequence[str | Size] | None,
    seeds: int | Sequence[int] | None,
    *,
    table: LabelTable,
    px_per_token: int,
    round_size: bool = False,
    start: Start | Sequence[Start | None] | None = None,
) -> tuple[ImageRequest, ...]:
    """One request an image, from lists of one length; a single value stands for all.

    Args:
        labels: names or numbers.
        sizes: px; text is WIDTHxHEIGHT. None: that of the picture that an image starts from, floored to whole tokens.
        seeds: by default 0, 1, 2, ….
        table: the model's classes.
        px_per_token: px that sides must be multiples of.
        round_size: take the nearest size that is one.
        start: the pictures to start from; None: from noise alone.

    Raises:
        ConfigError: lists of different lengths, an unknown label, a size that is not a multiple, none where there is no
            picture, or a picture that cannot be laid on its image.
    """
    given = {"labels": labels, "sizes": sizes, "seeds": seeds, "start": start}
    spread = together({name: _listed(value) for name, value in given.items() if value is not None})
    count = len(spread["labels"])
    rows = zip(
        spread["labels"],
        spread.get("sizes", [None] * count),
        spread.get("seeds", range(count)),
        spread.get("start", [None] * count),
        strict=True,
    )
    requests = []
    for label, size, seed, picture in rows:
        px = _size(size, picture, px_per_token)
        px = px.rounded(px_per_token) if round_size else px
        number, grid = table.number(label), px.grid(px_per_token)
        canvas = picture.laid_on(px, px_per_token) if picture else None
        requests.append(ImageRequest(label=number, size=px, grid=grid, seed=int(seed), canvas=canvas))
    return tuple(requests)


def together(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Lists of one length; a single value stands for all.

    Args:
        columns: by the name that an error calls them.

    Raises:
        ConfigError: other lengths, or an empty list.
    """
    count = max(len(column) for column in columns.values())
    for name, column in columns.items():
        if len(column) not in (1, count) or not column:
            found = ", ".join(f"{len(column)} {name}" for name, column in columns.items())
            raise ConfigError(f"got {found}", wanted="lists of one length, or single values", fix=f"change {name}")
    return {name: column * count if len(column) == 1 else column for name, column in columns.items()}


def make_packs(
    requests: Sequence[ImageRequest], budget: int, shape: PackShape | None = None, *, one_size: bool = False
) -> list[list[ImageRequest]]:
    """Which requests are sampled together: consecutive ones, as many as budget and shape hold.

    Args:
        requests: the images.
        budget: tokens. It is about memory, so an image that is longer goes alone rather than being refused.
        shape: what each pack will be padded to.
        one_size: only images of equally many tokens together.

    Raises:
        ConfigError: a budget below one token.
    """
    require(budget >= 1, f"a budget of {budget} tokens", "at least 1")
    packs: list[list[ImageRequest]] = []
    tokens = 0  # of the last pack
    for request in requests:
        tokens += request.grid.tokens
        joins = bool(packs) and not (one_size and packs[-1][0].grid.tokens != request.grid.tokens)
        if joins and tokens <= budget and (shape is None or _fits(len(packs[-1]) + 1, tokens, shape)):
            packs[-1].append(request)
        else:
            packs.append([request])
            tokens = request.grid.tokens
    return packs


def _fits(images: int, tokens: int, shape: PackShape) -> bool:
    """Whether a shape holds the images and the segments that its padding needs."""
    padding = shape.tokens - tokens
    return padding >= 0 and images + math.ceil(padding / shape.max_seqlen) <= shape.images


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str | int | Size | Start) else list(value)


def _size(size: str | Size | None, start: Start | None, px_per_token: int) -> Size:
    if isinstance(size, Size):
        return size
    if size is not None:
        return Size.parse(size)
    if start is None:
        raise ConfigError("got no size", wanted="WIDTHxHEIGHT in px, such as 512x256", fix="say how large")
    return start.fitted_size(px_per_token)
