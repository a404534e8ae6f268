"""What is evaluated: images that are there, or a model that makes them."""

from dataclasses import dataclass
from pathlib import Path

from .. import hub
from ..config import from_dict, require
from ..errors import ConfigError
from ..files import read_json
from ..grid import Size
from ..latents.format import DatasetInfo
from ..ranks import Ranks
from ..sample.folder import PIPELINE
from ..sample.pipeline import Pipeline
from ..sample.request import SamplingSettings
from ..train.config import TrainConfig
from ..train.folder import CONFIG, DATA
from .options import EvaluateOptions
from .pictures import Framing
from .presets import PRESETS, Published
from .sources import Source, open_source


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """What a training run says about its images.

    Attributes:
        max_side: px; larger images were reduced to that area.
        held_out: the share of the images that it never trained on.
    """

    max_side: int
    held_out: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """What is evaluated.

    Attributes:
        name: as it was named.
        source: its images, or None of a model.
        pipe: the model, or None of images.
        trained_on: what a training run says.
    """

    name: str
    source: Source | None = None
    pipe: Pipeline | None = None
    trained_on: TrainedOn | None = None

    @classmethod
    def open(cls, options: EvaluateOptions) -> "Subject":
        """Find out what was named.

        Raises:
            AnyResError: nothing has this name, or it cannot be read.
        """
        name = options.made or ""
        path = Path(name).expanduser()
        if name and (path.suffix == ".npz" or (path.is_dir() and not _is_model(path))):
            return cls(name=name, source=open_source(path))
        folder = hub.resolve(name)
        pipe = Pipeline.from_pretrained(
            name,
            device=Ranks.from_environment().device(options.device),
            dtype=options.dtype,
            attention=options.attention,
        )
        return cls(name=name, pipe=pipe, trained_on=_trained_on(folder))

    @property
    def kind(self) -> str:
        """Of `results.Origin`."""
        return "model" if self.pipe else "npz" if Path(self.name).suffix == ".npz" else "folder"

    def framing(self, options: EvaluateOptions) -> Framing | None:
        """The framing that the options, or else a training run, ask for; None where neither says.

        Raises:
            ConfigError: a size that is none.
        """
        size = options.size or (str(preset.size) if (preset := preset_of(options)) else None)
        if size is not None:
            return Framing(size=Size.parse(size), upscale=options.upscale)
        token = self.pipe.px_per_token if self.pipe else 1
        side = options.max_side or (self.trained_on.max_side if self.trained_on else None)
        return Framing(max_side=side, multiple=options.multiple or token) if side else None

    def settings(self, options: EvaluateOptions) -> SamplingSettings:
        """How the model samples: its own defaults or a preset's, with the options that were given."""
        assert self.pipe is not None  # noqa: S101 - asked of models only
        preset = preset_of(options)
        return (preset.settings if preset else self.pipe.defaults).changed(**options.given())

    def trained_side(self, options: EvaluateOptions) -> Size | None:
        """The square in px that images were trained at."""
        if options.trained_side is not None:
            return Size(options.trained_side, options.trained_side)
        if self.trained_on is not None:
            return Size(self.trained_on.max_side, self.trained_on.max_side)
        side = self.pipe and self.pipe.trained_side * self.pipe.px_per_token
        return Size(side, side) if side else None


def preset_of(options: EvaluateOptions) -> Published | None:
    """The preset that was asked for.

    Raises:
        ConfigError: there is none of this name.
    """
    if options.preset is None:
        return None
    require(
        options.preset in PRESETS,
        f"preset {options.preset!r}",
        f"one of {', '.join(PRESETS)}",
        "use one of them; names are WIDTHxHEIGHT",
    )
    return PRESETS[options.preset]


def require_model(subject: Subject, what: str) -> Pipeline:
    """The model, for what makes no sense without one.

    Raises:
        ConfigError: images were named.
    """
    if subject.pipe is None:
        raise ConfigError(
            f"{what} of {subject.name}, which holds images", wanted="a model", fix="name a model, or leave it out"
        )
    return subject.pipe


def _is_model(folder: Path) -> bool:
    return any((folder / name).exists() for name in (PIPELINE, f"model/{PIPELINE}", "checkpoints", DATA))


def _trained_on(folder: Path) -> TrainedOn | None:
    """From a training run's files, also where its model/ was named."""
    for root in (folder, folder.parent):
        if (root / DATA).is_file() and (root / CONFIG).is_file():
            info = from_dict(DatasetInfo, read_json(root / DATA)["info"], where=str(root / DATA))
            config = from_dict(TrainConfig, read_json(root / CONFIG), where=str(root / CONFIG))
            return TrainedOn(max_side=info.max_side, held_out=config.held_out.share)
    return None
