"""The options of `anyres sample`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..config import require


@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """How a model samples, in all commands that do."""

    steps: int | None = None
    """Solver steps; where this and the next ones are not given, the model's own defaults hold."""
    solver: str | None = None
    """euler, heun or sde."""
    guidance: float | None = None
    """Scale of classifier-free guidance; 1 is none."""
    interval: tuple[float, float] | None = None
    """Least and greatest t at which guidance acts, such as 0 0.7."""
    extrapolation: str | None = None
    """How positions beyond the training's are treated: normal, linear, ntk-aware, yarn, …."""
    decoupled: bool = False
    """Extrapolate height and width each by its own ratio."""
    budget: int | None = None
    """Tokens sampled together: less needs less memory."""
    dtype: str = "auto"
    """Of the network: auto, float32, bfloat16, float16, or float8: bfloat16 with the blocks' products in 8 bits, on a
    GPU that has them. The autoencoder takes float32 with it, else bfloat16."""
    attention: str = "auto"
    """Attention backend: auto, reference, sdpa, varlen, flex or triton."""

    def __post_init__(self) -> None:
        require(self.budget is None or self.budget >= 1, f"a budget of {self.budget} tokens", "at least 1")

    def given(self) -> dict[str, Any]:
        """What `SamplingSettings.changed` takes: None where the model's own default holds."""
        return {
            "steps": self.steps,
            "solver": self.solver,
            "guidance": self.guidance,
            "guidance_interval": self.interval,
            "extrapolation": self.extrapolation,
            "decoupled": self.decoupled or None,
        }


@dataclass(frozen=True, kw_only=True)
class StartOptions:
    """Pictures to start from instead of noise alone. They go together with labels, sizes and seeds, one by one."""

    from_: Annotated[tuple[Path, ...], tyro.conf.arg(name="from")] = ()
    """Pictures to start from."""
    strength: tuple[float, ...] = ()
    """How much of a picture is made anew, 0 to 1; by default 0.6, with --mask 1, and 0 where --place leaves a rest."""
    mask: tuple[Path, ...] = ()
    """Pictures of the same sizes: white is made anew, black stays."""
    place: tuple[str, ...] = ("crop",)
    """How it lies on an image of another size: crop, stretch, extend (make the rest), or LEFT,TOP in px (likewise)."""
    paste: bool = True
    """Put the px that stay back over the finished image."""

    def __post_init__(self) -> None:
        changed = [name for name in ("strength", "mask") if getattr(self, name)]
        changed += ["place"] if self.place != ("crop",) else []
        require(
            bool(self.from_) or not changed,
            f"--{' and --'.join(changed)} without a picture",
            "a picture to start from",
            "add --from PICTURE",
        )


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Options of `anyres merge`."""

    adapter: Annotated[str, tyro.conf.Positional]
    """An adapter's folder, a training run with LoRA, or a hub id."""
    out: Path
    """The model's folder."""


@dataclass(frozen=True, kw_only=True)
class SampleOptions(SamplerOptions):
    """Options of `anyres sample`. Labels, sizes and seeds go together one by one; a single one stands for all."""

    model: Annotated[str, tyro.conf.Positional]
    """A pipeline's folder, a training run's folder, a built-in model or a hub id."""
    label: tuple[str, ...]
    """Names or numbers of classes."""
    size: tuple[str, ...] = ()
    """Sizes in px, WIDTHxHEIGHT; by default 256x256, or with --from those of the pictures."""
    seed: tuple[int, ...] = ()
    """Seeds; by default 0, 1, 2, …."""
    count: int = 1
    """Images of each label and size, with consecutive seeds."""
    out: Path = Path("samples")
    """Folder of the images."""
    round_size: bool = False
    """Take the nearest size that the model can make."""
    weaker: str | None = None
    """A weaker model for autoguidance, in the place of the unlabelled branch."""
    start: Annotated[StartOptions, tyro.conf.arg(name="")] = StartOptions()
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    contact_sheet: bool = True
    """Also write one picture of all images."""
    overwrite: bool = False
    """Replace files of the same name instead of numbering new ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.count >= 1, f"count = {self.count}", "at least 1")
        require(len(self.label) >= 1, "no label", "at least one --label")
