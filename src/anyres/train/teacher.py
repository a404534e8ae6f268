"""A teacher that sees the pictures themselves while a model is trained, in the place of stored features."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from ..errors import ConfigError
from ..grid import Cells, Grid
from ..latents.features import TeacherInfo
from ..latents.format import LatentDataset
from ..networks.features import MapNetwork
from ..networks.teacher import Teacher, load_teacher
from ..packing.loader import resampled
from ..packing.pack import Pack, PackLayout
from ..prepare.again import Pictures
from ..prepare.encoder import BATCH_PX
from ..shapes import Num, Tensor, UInt8
from .config import TrainConfig
from .precision import autocast


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Pictures of one size.

    Attributes:
        numbers: of the images in their pack.
        pixels: on the host.
        grid: of their tokens.
    """

    numbers: list[int]
    pixels: UInt8[Tensor, "images height width 3"]
    grid: Grid


class SeeingTeacher:
    """Makes a pack's features as the dataset would hold them: from the same pictures, for the same squares.

    Args:
        network: frozen, on the device.
        dataset: that is trained on.
        config: the run's; `teacher.images` says where the images are.
        device: where it computes.

    Attributes:
        info: which features these are.
    """

    def __init__(self, network: MapNetwork, dataset: LatentDataset, config: TrainConfig, device: torch.device) -> None:
        assert config.teacher is not None  # noqa: S101
        assert config.teacher.images is not None  # noqa: S101
        self._pictures, self._dataset = Pictures(dataset, config.teacher.images), dataset
        self._config, self._device, self._patch = config, device, config.model.patch_size
        with torch.no_grad():
            self._teacher = Teacher(network, "float16", device)
        self.info = TeacherInfo(
            identity=self._teacher.identity,
            dim=self._teacher.dim,
            cells=self._patch,
            px=self._teacher.px,
            dtype="float16",
        )

    def look(self, pack: Pack) -> list[Batch]:
        """Decode a pack's pictures; in any thread."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        pictures = []
        for number, (row, flipped) in enumerate(zip(pack.indices, pack.flipped, strict=True)):
            pictures.append(self._pictures.of(row, flipped=flipped))
            groups[pictures[-1].shape[:2]].append(number)
        batches = []
        for (height, width), numbers in groups.items():
            each = max(1, BATCH_PX[self._device.type] // (height * width))
            grid = Cells(*self._dataset.cells[pack.indices[numbers[0]]].tolist()).grid(self._patch)
            for first in range(0, len(numbers), each):
                some = numbers[first : first + each]
                pixels = torch.from_numpy(np.stack([pictures[number] for number in some]))
                if self._device.type == "cuda":
                    pixels = pixels.pin_memory()
                batches.append(Batch(numbers=some, pixels=pixels, grid=grid))
        return batches

    @torch.no_grad()
    def features(self, layout: PackLayout, batches: list[Batch]) -> Num[Tensor, "tokens features"]:
        """Features of a pack's tokens, on the device; zero in padding. The device is not waited for."""
        parts: dict[int, Tensor] = {}
        for batch in batches:
            images = rearrange(batch.pixels.to(self._device, non_blocking=True), "n h w c -> n c h w")
            with autocast(self._config, self._device):
                found = self._teacher.see(images, batch.grid)
            for number, seen in zip(batch.numbers, found, strict=True):
                wanted = layout.grids[number]
                parts[number] = seen if wanted == batch.grid else resampled(seen, batch.grid, wanted)
        of_tokens = torch.cat([parts[number] for number in range(layout.images)])
        return F.pad(of_tokens, (0, 0, 0, layout.shape.tokens - layout.tokens))


def seeing_teacher(
    config: TrainConfig, dataset: LatentDataset, device: torch.device, network: MapNetwork | None = None
) -> SeeingTeacher | None:
    """The teacher that sees pictures while training, if the run has one.

    Args:
        config: the run's.
        dataset: that is trained on.
        device: where it computes.
        network: in the place of the one that the configuration names.

    Raises:
        ConfigError: it is not said which network.
        DataError: the images are not those of the dataset.
        BackendError, CheckpointError: see `load_teacher`.
    """
    settings = config.teacher
    if settings is None or settings.images is None:
        return None
    if network is None:
        if settings.network is None:
            raise ConfigError(
                f"teacher.images = {settings.images!r} and no network that sees them",
                wanted="both",
                fix="name it: --teacher.network efficientnet-lite0",
            )
        network = load_teacher(settings.network, device, settings.weights)
    return SeeingTeacher(network, dataset, config, device)
