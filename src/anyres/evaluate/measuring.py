"""From images to sets of features, by a protocol that two sets must share to be compared."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange

from ..progress import progress
from ..shapes import Tensor
from .features import FeatureNetwork
from .pictures import Counts, Framing, Picture, pictures
from .sets import Collector, FeatureSet
from .sources import Source

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
        framing: how they are brought to one size.
        batch: images that go through the network together.
        workers: threads that decode.
        seed: of what is chosen at random.
    """

    network: FeatureNetwork
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

            for batch in _batches(routed(), self.batch):
                found = self._seen([picture for _, picture in batch])
                for part, collector in enumerate(collectors):
                    rows = [i for i, (number, _) in enumerate(batch) if number == part]
                    if rows:
                        collector.add([batch[i][1] for i in rows], {name: v[rows] for name, v in found.items()})
        return [collector.finish() for collector in collectors], counts

    def _seen(self, batch: Sequence[Picture]) -> dict[str, np.ndarray]:
        """What the network finds in pictures of one size, by the names of `FeatureSet`."""
        images = rearrange(np.stack([picture.pixels for picture in batch]), "n h w c -> n c h w")
        found = self.network(torch.from_numpy(np.ascontiguousarray(images)))
        probabilities = {} if found.probabilities is None else {"probabilities": _host(found.probabilities)}
        return {"features": _host(found.pooled), "spatial": _host(found.spatial), **probabilities}


def _batches(items: Iterable[tuple[int, Picture]], batch: int) -> Iterator[list[tuple[int, Picture]]]:
    """Consecutive pictures of equal size together, at most `batch`."""
    waiting: list[tuple[int, Picture]] = []
    for item in items:
        if waiting and (len(waiting) == batch or waiting[0][1].pixels.shape != item[1].pixels.shape):
            yield waiting
            waiting = []
        waiting.append(item)
    if waiting:
        yield waiting


def _host(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
