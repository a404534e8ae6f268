"""The options of `anyres demo`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..config import require


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Options of `anyres demo`."""

    model: Annotated[str, tyro.conf.Positional] = "mini"
    """A pipeline's folder, a training run's folder, a built-in model or a hub id."""
    host: str = "127.0.0.1"
    """Address to listen at; by default this machine alone can reach the page. 0.0.0.0 lets the whole network in."""
    port: int | None = None
    """Port to listen at; by default the first free one from 7860 on."""
    out: Path | None = None
    """Also keep every picture in this folder; by default they are gone with the page unless downloaded."""
    browser: bool = True
    """Open the page in a browser."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: str = "auto"
    """Of the network: auto, float32, bfloat16, float16 or float8."""
    attention: str = "auto"
    """Attention backend: auto, reference, sdpa, varlen or flex."""

    def __post_init__(self) -> None:
        require(self.port is None or 1 <= self.port <= 65535, f"port {self.port}", "1 to 65535")
