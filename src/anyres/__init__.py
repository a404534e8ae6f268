"""Images of any size and shape, from models trained on images at their own size and shape.

    images ──prepare──▶ latents ──pack──▶ packs ──train──▶ model ──sample──▶ images ──evaluate──▶ figures

    anyres.prepare  1  a folder of images → a dataset of latents
    anyres.packing  2  lengths → packs: several images in one sequence
    anyres.model    3  the network: NiT, a diffusion transformer over packed sequences (arXiv 2506.03131)
    anyres.flow     4  the mathematics: path, times, losses, guidance, solvers
    anyres.sample   5  labels and sizes → images
    anyres.train    6  packs → a model
    anyres.evaluate 7  how near made images are to real ones

Convention, everywhere: t = 0 is data, t = 1 is noise, x_t = (1 − t)·x + t·ε, and the network predicts the
velocity ε − x.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .grid import Grid, Size
    from .model.config import NiTConfig
    from .model.nit import NiT
    from .packing.pack import Pack, PackLayout, PackShape
    from .sample.pipeline import Pipeline
    from .sample.start import Start

__version__ = "0.1.0"

_PUBLIC = {
    "Grid": ".grid",
    "NiT": ".model.nit",
    "NiTConfig": ".model.config",
    "Pack": ".packing.pack",
    "PackLayout": ".packing.pack",
    "PackShape": ".packing.pack",
    "Pipeline": ".sample.pipeline",
    "Size": ".grid",
    "Start": ".sample.start",
}

__all__ = ["Grid", "NiT", "NiTConfig", "Pack", "PackLayout", "PackShape", "Pipeline", "Size", "Start", "__version__"]


def __getattr__(name: str) -> Any:  # lazily: `anyres --help` must not wait for torch
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name], __name__), name)
