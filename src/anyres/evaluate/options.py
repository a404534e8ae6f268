"""The options of `anyres evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..config import require


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of `anyres evaluate`."""

    images: Annotated[Path, tyro.conf.Positional]
    """A folder of made images."""
    reference: Path
    """A folder of real images."""
    size: str | None = None
    """WIDTHxHEIGHT in px that all images are cropped and reduced to; by default each keeps its own size."""
    upscale: bool = False
    """Enlarge images that are smaller than --size instead of leaving them out."""
    network: str = "efficientnet-lite2"
    """The feature network: efficientnet-lite0 or efficientnet-lite2."""
    seed: int = 0
    """Of the draws behind the intervals."""
    batch: int | None = None
    """Images that go through the network together; by default what suits the device."""
    workers: int = 2
    """Threads that decode images."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    out: Path | None = None
    """Also write the figures, as JSON, to this file."""

    def __post_init__(self) -> None:
        require(self.batch is None or self.batch >= 1, f"batch = {self.batch}", "at least 1")
        require(self.workers >= 1, f"workers = {self.workers}", "at least 1")
        require(
            not self.upscale or self.size is not None, "--upscale without --size", "both", "add --size WIDTHxHEIGHT"
        )
