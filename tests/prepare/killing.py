"""`anyres prepare` killed at a chosen instant, in a process of its own."""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from anyres.networks.features import MapNetwork
from anyres.prepare.encode import PrepareReport, prepare
from anyres.prepare.options import PrepareOptions
from tests.forking import SERVER

Image.init()  # its plugins
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod")


def no_fsync(_descriptor: int) -> None:
    """Instead of `os.fsync`, which is slow, and matters to power cuts but not to kills."""


def run(images: Path, out: Path, teacher: MapNetwork | None = None, **options) -> PrepareReport:
    """Prepare in small shards."""
    settings = {"images_per_shard": 5, "workers": 1, **options}
    return prepare(PrepareOptions(images=images, out=out, device="cpu", **settings), teacher)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kill(images: Path, out: Path, change: int, **options) -> bool:
    """`run`, killed right before its n-th change of what is in `out`; False if it finished with fewer."""
    return kill_work(partial(run, images, out, **options), out, change)


def kill_work(work: Callable[[], object], out: Path, change: int) -> bool:
    """The same of any work that can be pickled."""
    process = SERVER.Process(target=_killed, args=(work, out, change))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _killed(work: Callable[[], object], out: Path, change: int) -> None:
    left = change

    def watch(event: str, args: tuple) -> None:
        nonlocal left
        opened = event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (opened or event in CHANGES) and isinstance(args[0], str | Path) and Path(args[0]).is_relative_to(out):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = no_fsync
    sys.addaudithook(watch)
    work()
