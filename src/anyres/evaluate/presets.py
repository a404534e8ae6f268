"""The settings of NiT-XL's published results (arXiv 2506.03131, table of FID-50K by the ADM evaluator), by name."""

from dataclasses import dataclass

from ..grid import Size
from ..sample.request import SamplingSettings, Solver


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published setting and its result, of XL after 1,000K steps with 50,000 images.

    Attributes:
        settings: of the sampler.
        size: px, of the images that were made.
        named: the size as published, height × width, where it was another: sides were floored to multiples of 32 px.
        fid: with sfid, inception_score, precision and recall, by ADM's evaluator.
    """

    settings: SamplingSettings
    size: Size
    named: str | None
    fid: float
    sfid: float
    inception_score: float
    precision: float
    recall: float

    def __str__(self) -> str:
        named = f" (published as {self.named}, height × width, of which sides were floored)" if self.named else ""
        return (
            f"{self.size}{named}: FID {self.fid}, sFID {self.sfid}, IS {self.inception_score}, "
            f"precision {self.precision}, recall {self.recall} at 50,000 images"
        )


IMAGES = 50_000


def _row(
    height: int, width: int, solver: Solver, steps: int, guidance: float, high: float, *results: float
) -> tuple[str, Published]:
    size = Size(height // 32 * 32, width // 32 * 32)
    named = None if (size.height, size.width) == (height, width) else f"{height} × {width}"
    fid, sfid, score, precision, recall = results
    settings = SamplingSettings(steps=steps, solver=solver, guidance=guidance, guidance_low=0.0, guidance_high=high)
    return f"nit-{size}", Published(
        settings=settings,
        size=size,
        named=named,
        fid=fid,
        sfid=sfid,
        inception_score=score,
        precision=precision,
        recall=recall,
    )


# height, width as published; names are WIDTHxHEIGHT
PRESETS = dict(
    [
        _row(256, 256, "sde", 250, 2.25, 0.7, 2.16, 6.34, 253.44, 0.79, 0.62),
        _row(512, 512, "sde", 250, 2.05, 0.7, 1.57, 4.13, 260.69, 0.81, 0.63),
        _row(768, 768, "euler", 50, 3.0, 0.7, 4.05, 8.77, 262.31, 0.83, 0.52),
        _row(1024, 1024, "euler", 50, 3.0, 0.8, 4.52, 7.99, 286.87, 0.82, 0.50),
        _row(1536, 1536, "euler", 50, 3.5, 0.9, 6.51, 9.97, 230.10, 0.83, 0.42),
        _row(2048, 2048, "euler", 50, 4.5, 0.9, 24.76, 18.02, 131.36, 0.67, 0.46),
        _row(320, 960, "euler", 50, 4.0, 0.9, 16.85, 17.79, 189.18, 0.71, 0.38),
        _row(432, 768, "euler", 50, 2.75, 0.7, 4.11, 10.30, 254.71, 0.83, 0.55),
        _row(480, 640, "euler", 50, 2.75, 0.7, 3.72, 8.23, 284.94, 0.83, 0.54),
        _row(640, 480, "euler", 50, 2.5, 0.7, 3.41, 8.07, 259.06, 0.83, 0.56),
        _row(768, 432, "euler", 50, 2.85, 0.7, 5.27, 9.92, 218.78, 0.80, 0.55),
        _row(960, 320, "euler", 50, 4.5, 0.9, 9.90, 25.78, 255.95, 0.74, 0.40),
    ]
)
