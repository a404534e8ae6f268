"""From images to sets of features, by a protocol that two sets must share to be compared."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange

from ..networks.features import FeatureNetwork
from ..progress import progress
from ..shapes import Tensor
from .pictures import Counts, Framing, Picture, pictures
from .sets import Collector, FeatureSet
from .sources import Source

WINDOW = 16  # batches that are read ahead, so that images of one size meet
WINDOW_PX = 2**26  # 200 MB

Route = Callable[[Picture], Iterable[tuple[int, Picture]]]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What must be equal for two sets of features to be compared.

    Attributes:
        network: the feature network, with a hash of its weights.
        network_input: how images are brought to its input.
        framing: how they are brought to one size before.
    """

    network: str
    network_input: str
    framing: Framing


@dataclass(frozen=True, eq=False, kw_only=True)
class Measuring:
    """How images are turned into features.

    Attributes:
        network: what sees them.
        device: where it runs.
        framing: how they are brought to one size.
        batch: images that go through the network together.
        workers: threads that decode.
        seed: of what is chosen at random.
    """

    network: FeatureNetwork
    device: torch.device
    framing: Framing
    batch: int
    workers: int
    seed: int

    @property
    def protocol(self) -> Protocol:
        """What must be equal for sets to be compared."""
        return Protocol(network=self.network.identity, network_input=self.network.protocol, framing=self.framing)

    def collect(self, source: Source, description: str) -> tuple[FeatureSet, Counts]:
        """The features of a source's images, and what became of the others."""
        (found,), counts = self.collect_parts(source, description, lambda picture: [(0, picture)], parts=1)
        return found, counts

    def collect_parts(
        self, source: Source, description: str, route: Route, *, parts: int
    ) -> tuple[list[FeatureSet], Counts]:
        """The features of a source's images, each sent to any of several sets, as it is or changed.

        Args:
            source: the images.
            description: of the progress bar.
            route: from a picture to numbers of sets, and the picture for each.
            parts: number of sets.

        Returns:
            The sets, and what became of the images that are in none.
        """
        total, counts = len(source.names), Counts()
        collectors = [Collector(seed=self.seed, expected=total) for _ in range(parts)]
        with progress(description, total, "image") as bar:

            def routed() -> Iterator[tuple[int, Picture]]:
                for picture in pictures(source, self.framing, counts, workers=self.workers):
                    bar.advance()
                    yield from route(picture)

            for window in _windows(routed(), self.batch):
                found = self._seen_each([picture for _, picture in window])
                for part, collector in enumerate(collectors):
                    rows = [i for i, (number, _) in enumerate(window) if number == part]
                    if rows:
                        values = {name: np.stack([found[i][name] for i in rows]) for name in found[rows[0]]}
                        collector.add([window[i][1] for i in rows], values)
        return [collector.finish() for collector in collectors], counts

    def _seen_each(self, window: Sequence[Picture]) -> list[dict[str, np.ndarray]]:
        """What the network finds in each picture, by the names of `FeatureSet`; those of one size go together."""
        sizes: dict[tuple[int, ...], list[int]] = {}
        for i, picture in enumerate(window):
            sizes.setdefault(picture.pixels.shape, []).append(i)
        found: list[dict[str, np.ndarray]] = [{} for _ in window]
        for members in sizes.values():
            for start in range(0, len(members), self.batch):
                rows = members[start : start + self.batch]
                for name, values in self._seen([window[i] for i in rows]).items():
                    for i, value in zip(rows, values, strict=True):
                        found[i][name] = value.copy()  # a view would keep the whole batch
        return found

    def _seen(self, batch: Sequence[Picture]) -> dict[str, np.ndarray]:
        images = rearrange(np.stack([picture.pixels for picture in batch]), "n h w c -> n c h w")
        found = self.network(torch.from_numpy(np.ascontiguousarray(images)))
        probabilities = {} if found.probabilities is None else {"probabilities": _host(found.probabilities)}
        return {"features": _host(found.pooled), "spatial": _host(found.spatial), **probabilities}


def _windows(items: Iterable[tuple[int, Picture]], batch: int) -> Iterator[list[tuple[int, Picture]]]:
    """Consecutive pictures, enough to find some of one size among them, and not more than memory is there for."""
    waiting: list[tuple[int, Picture]] = []
    px = 0
    for item in items:
        waiting.append(item)
        px += item[1].pixels.shape[0] * item[1].pixels.shape[1]
        if len(waiting) == WINDOW * batch or px >= WINDOW_PX:
            yield waiting
            waiting, px = [], 0
    if waiting:
        yield waiting


def _host(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
