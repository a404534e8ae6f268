"""Writing that survives a crash: a file or folder appears whole, by rename, or not at all."""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import AnyResError, DataError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the disk's refusals (full, read-only, not permitted) into a `DataError` that names `path`."""
    try:
        yield
    except Exception as error:
        refusal = _refusal(error)
        known = next((known for known in _REFUSALS if refusal is not None and refusal.errno in known.numbers), None)
        if refusal is None or known is None:
            raise
        raise DataError(
            known.got.format(path=path, why=refusal.strerror), wanted=known.wanted, fix=known.fix
        ) from error


@dataclass(frozen=True)
class _Refusal:
    numbers: tuple[int, ...]
    got: str
    wanted: str
    fix: str


_REFUSALS = (
    _Refusal(
        (errno.ENOSPC, errno.EDQUOT),
        "the disk is full: cannot write {path}",
        "free space on that disk",
        "free some space or choose another output folder, then run the same command again: what was finished is kept",
    ),
    _Refusal(
        (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.EISDIR),
        "cannot write {path}: {why}",
        "a folder that this user may write to",
        "choose another output folder, or change its permissions",
    ),
    _Refusal(
        (errno.EIO, errno.EFBIG, errno.ESTALE),
        "cannot write {path}: {why}",
        "a disk that takes it",
        "check the disk, or choose another output folder, then run the same command again",
    ),
)


def _refusal(error: BaseException | None) -> OSError | None:
    """What the disk said: the error itself, or one that a library has wrapped in its own."""
    if error is None or isinstance(error, OSError):
        return error
    if isinstance(error, AnyResError):  # said already
        return None
    number = re.search(r"\(os error (\d+)\)", str(error))  # libraries written in Rust keep no more of it
    if number:
        return OSError(int(number[1]), os.strerror(int(number[1])))
    return _refusal(error.__cause__ or error.__context__)


def make_folder(path: Path) -> Path:
    """Create a folder and its parents, and check that it can be written to.

    Raises:
        DataError: it cannot be created or written to.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        check_writable(path)
    return path


def check_writable(folder: Path) -> None:
    """Find out before long work whether a folder can be written to, without making it.

    Raises:
        DataError: it cannot be written to, or not be made.
    """
    with writing(folder):
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        probe = nearest / f".probe.{os.getpid()}.tmp"
        probe.write_bytes(b"")
        probe.unlink()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, what is there becomes `path`.

    Files and folders alike. The data reaches the disk before the rename, so that a power cut cannot leave a
    name without its content. When the block fails, `path` is as it was and the temporary is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            yield temporary
            if temporary.is_file():
                make_shared(temporary)
            _sync(temporary)
            if temporary.is_dir() and path.is_dir():
                shutil.rmtree(path)
            temporary.replace(path)
            _sync_entry(path.parent)
        finally:
            _remove(temporary)


def make_shared(path: Path) -> None:
    """Give a file the permissions that the user gives to new files: some writers make private ones."""
    path.chmod(0o666 & ~_umask())


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        DataError: the file is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", wanted="a JSON file there", fix="check the path") from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}",
            wanted="a JSON file there that this user may read",
            fix="check the path and its permissions",
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"{path} is not valid JSON: {error}",
            wanted="the file as this program wrote it",
            fix="restore it from a copy, or make it again",
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove the temporaries that a killed process left in `folder`."""
    for leftover in folder.glob(".*.tmp"):
        _remove(leftover)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _sync(child)
    _sync_entry(path)


def _sync_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
