"""Images in the making: a preview every now and then, until they are done."""

import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from PIL import Image

from ..sample.pipeline import Pipeline, StepInfo
from ..sample.request import ImageRequest, SamplingSettings
from ..shapes import Tensor

LEAST_WAIT = 0.5  # seconds between previews
SHARE = 0.2  # of the time that previews may take, at most


@dataclass(frozen=True, eq=False, kw_only=True)
class Making:
    """Where the making of some images stands.

    Attributes:
        step: steps done, of all packs together.
        steps: in all.
        images: as they are expected to become; at the end, as they are. None where nothing is known of one yet.
        fresh: whether they have changed since they were last told of.
        done: whether they are finished.
    """

    step: int
    steps: int
    images: tuple[Image.Image | None, ...]
    fresh: bool
    done: bool


class _Stopped(Exception):  # noqa: N818 - it is no error
    """Nobody waits for the images any more."""


class Maker:
    """Makes images in threads of their own.

    Args:
        pipe: what makes them.
    """

    def __init__(self, pipe: Pipeline) -> None:
        self._pipe = pipe
        self._running: dict[threading.Thread, threading.Event] = {}

    def make(self, requests: Sequence[ImageRequest], settings: SamplingSettings) -> Generator[Making]:
        """Make images, and tell where they stand; closing the iterator ends it after the step that it is in.

        Args:
            requests: the images.
            settings: how.

        Raises:
            AnyResError: as sampling raises it.
        """
        news: SimpleQueue[Making | BaseException] = SimpleQueue()
        stopped = threading.Event()

        def work() -> None:
            try:
                news.put(_made(self._pipe, requests, settings, news, stopped))
            except BaseException as error:
                news.put(error)  # to be raised where the images are waited for
            finally:
                self._running.pop(thread, None)

        thread = threading.Thread(target=work, name="making")
        self._running[thread] = stopped
        thread.start()
        try:
            while True:
                item = news.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if item.done:
                    return
        finally:
            stopped.set()

    def close(self) -> None:
        """End whatever is being made."""
        for thread, stopped in list(self._running.items()):
            stopped.set()
            thread.join()


def _made(
    pipe: Pipeline,
    requests: Sequence[ImageRequest],
    settings: SamplingSettings,
    news: "SimpleQueue[Making | BaseException]",
    stopped: threading.Event,
) -> Making:
    """The finished images; tells the news while it works."""
    packs = pipe.packs(requests)
    first = [sum(map(len, packs[:number])) for number in range(len(packs))]  # image of each pack
    shown: list[Image.Image | None] = [None] * len(requests)
    previews = _Previews(stochastic=settings.solver == "sde")

    def on_step(info: StepInfo) -> None:
        if stopped.is_set():
            raise _Stopped
        latents = previews.latents(info)
        if latents is not None:
            start = time.monotonic()
            shown[first[info.pack] : first[info.pack] + len(latents)] = pipe.decode(latents)
            previews.took(time.monotonic() - start)
        step, steps, fresh = info.pack * info.steps + info.step, info.packs * info.steps, latents is not None
        news.put(Making(step=step, steps=steps, images=tuple(shown), fresh=fresh, done=False))

    images = pipe.images(pipe.latents(requests, settings, on_step=on_step), requests)
    steps = len(packs) * settings.steps
    return Making(step=steps, steps=steps, images=tuple(images), fresh=True, done=True)


class _Previews:
    """Decides when to show a preview, and of what.

    The state is mostly noise for long. What it heads for is not: the last step's velocity, followed to t = 0. The
    steps of the SDE have noise of their own, so there the state itself is shown.

    Args:
        stochastic: whether the solver is.
    """

    def __init__(self, *, stochastic: bool) -> None:
        self._stochastic = stochastic
        self._before: list[Tensor] | None = None
        self._next = 0.0

    def latents(self, info: StepInfo) -> list[Tensor] | None:
        """What to show after this step, if anything."""
        now = info.latents()
        before, self._before = self._before, now if info.step < info.steps else None
        if time.monotonic() < self._next:
            return None
        if self._stochastic:
            return now
        if before is None:
            return None
        # uniform steps: there are as many from here to t = 0 as are left
        left = info.steps - info.step
        return [state + left * (state - earlier) for state, earlier in zip(now, before, strict=True)]

    def took(self, seconds: float) -> None:
        """Tell how long a preview took: slower ones become rarer."""
        self._next = time.monotonic() + max(LEAST_WAIT, seconds / SHARE)
