"""A network's pass recorded once for a static shape as a CUDA graph and replayed: the same kernels, one launch.

A step of a small pack costs hundreds of launches, which take longer than the work itself.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import torch

from ..model.attention import STATIC_BACKENDS, pick_backend
from ..model.kernels import cublas
from ..model.nit import NiT
from ..model.rope import RotaryScaling
from ..packing.pack import PackLayout
from ..shapes import Float, Int, Tensor

KEPT = 8  # recordings of a pipeline; each holds its activations


class Recording:
    """The pass of one network over packs of one `PackShape`, on a CUDA device.

    Args:
        model: the network.
        layout: of a pack, on the device.
        labels: of its rows.
        scaling: rotary extrapolation.
    """

    def __init__(
        self, model: NiT, layout: PackLayout, labels: Int[Tensor, "images"], scaling: RotaryScaling | None
    ) -> None:
        self._model = model  # whose memory the recording reads
        tokens = (layout.shape.tokens, model.config.token_values)
        self._layout, self._labels = layout.clone(), labels.clone()
        self._tokens = torch.zeros(tokens, device=model.device, dtype=model.compute_dtype)
        self._t = torch.zeros(layout.shape.images, device=model.device)
        self._loaded: PackLayout | None = None
        with torch.no_grad(), cublas.choosing():  # the algorithms of what will be repeated
            model(self._tokens, self._t, self._labels, model.prepare(self._layout, scaling))
        # what depends on the layout alone is a recording of its own, replayed once a pack
        self._preparation, self._pass = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with _recorded(self._preparation):
            self._context = model.prepare(self._layout, scaling)
        with _recorded(self._pass):
            self._velocity = model(self._tokens, self._t, self._labels, self._context)

    def __call__(
        self, tokens: Float[Tensor, "tokens values"], t: float, layout: PackLayout, labels: Int[Tensor, "images"]
    ) -> Float[Tensor, "tokens values"]:
        """The velocity, in memory that the next call overwrites.

        Args:
            tokens: x_t, padded.
            t: time of all images.
            layout: of the pack, of the recorded shape.
            labels: of its rows.
        """
        if self._loaded is not layout:
            self._layout.copy_(layout)
            self._labels.copy_(labels)
            self._preparation.replay()
            self._loaded = layout
        self._tokens.copy_(tokens)
        self._t.fill_(t)
        self._pass.replay()
        return self._velocity


@contextmanager
def _recorded(graph: torch.cuda.CUDAGraph) -> Iterator[None]:
    # other threads may use the device meanwhile
    with torch.no_grad(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        yield


class Recordings:
    """The recordings of a pipeline's networks, the last used ones."""

    def __init__(self) -> None:
        # a recording, or the first pack of a shape that has had one only
        self._recordings: OrderedDict[Hashable, Recording | PackLayout] = OrderedDict()

    def find(
        self, model: NiT, layout: PackLayout, labels: Int[Tensor, "images"], scaling: RotaryScaling | None
    ) -> Recording | None:
        """The recording for a pack, made for the second pack of a shape; None where the pass is to be run as it is.

        Recording takes as long as a few passes, so a shape that comes once, however many its steps, is not worth it.
        """
        if not records(model):
            return None
        # weights that are replaced, not overwritten, are another network's
        key = (id(model), model.patch_embedding.weight.data_ptr(), layout.shape, scaling)
        found = self._recordings.pop(key, layout)
        if isinstance(found, PackLayout) and found is not layout:
            found = Recording(model, layout, labels, scaling)
        self._recordings[key] = found
        while len(self._recordings) > KEPT:
            self._recordings.popitem(last=False)
        return found if isinstance(found, Recording) else None


def records(model: NiT) -> bool:
    """Whether the network's pass can be recorded where it is."""
    if model.device.type != "cuda":
        return False
    return pick_backend(model.attention, model.device, model.compute_dtype) in STATIC_BACKENDS
