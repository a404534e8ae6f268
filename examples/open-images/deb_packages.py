"""Debian packages: finding or fetching one, and reading files out of it without installing it."""

import hashlib
import logging
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from anyres.errors import BackendError, DataError
from anyres.files import make_folder, read_json, replacing

logger = logging.getLogger(__name__)

AR_MAGIC, AR_HEADER = b"!<arch>\n", 60  # bytes of a member's header


@dataclass(frozen=True)
class Package:
    """A package in one version, pinned by its checksum."""

    name: str
    version: str
    sha256: str


def read_packages(path: Path) -> dict[str, Package]:
    """Read `packages.json`: each package by its name."""
    try:
        return {entry["name"]: Package(**entry) for entry in read_json(path)}
    except (TypeError, KeyError) as error:
        raise DataError(
            f"{path} cannot be used: {error!r}",
            wanted="a list of packages with name, version and sha256",
            fix="restore the file from the repository",
        ) from error


def obtain(package: Package, folder: Path) -> Path:
    """The package's file in `folder`, fetched by apt-get where it is not there yet.

    Raises:
        DataError: a file of that package is there, or was fetched, which is not the pinned one.
        BackendError: it is not there and cannot be fetched.
    """
    there = sorted(folder.glob(f"{package.name}_*.deb"))
    for path in there:  # more than one version may lie there, as in apt's own cache
        if _sha256(path) == package.sha256:
            return path
    if there:
        raise _wrong_checksum(there[0], package)
    return _fetch(package, folder)


def _fetch(package: Package, folder: Path) -> Path:
    apt = shutil.which("apt-get")
    if apt is None:
        raise _cannot_fetch(package, folder, "apt-get is not installed")
    make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".tmp") as temporary:
        fetching = [apt, "download", f"{package.name}={package.version}"]
        logger.info("fetching %s %s", package.name, package.version)
        done = subprocess.run(fetching, cwd=temporary, capture_output=True, text=True, check=False)
        fetched = next(Path(temporary).glob("*.deb"), None)
        if done.returncode != 0 or fetched is None:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise _cannot_fetch(package, folder, f"apt-get download says: {said[-1]}")
        if _sha256(fetched) != package.sha256:
            raise _wrong_checksum(fetched, package)
        target = folder / fetched.name
        with replacing(target) as whole:
            fetched.replace(whole)
    return target


def _cannot_fetch(package: Package, folder: Path, why: str) -> BackendError:
    return BackendError(
        f"the package {package.name} {package.version} is not in {folder}, and {why}",
        wanted=f"a file {package.name}_*.deb with the sha256 {package.sha256}",
        fix="get that version from Debian's archive or from snapshot.debian.org, put it into a folder, "
        "and pass the folder as --packages DIR (on Debian, `apt-get update` may be enough)",
    )


def _wrong_checksum(path: Path, package: Package) -> DataError:
    return DataError(
        f"{path.name} has the sha256 {_sha256(path)}",
        wanted=f"{package.sha256}, that of {package.name} {package.version}",
        fix=f"remove {path} if it is damaged or of another version, then run the same command again",
    )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}",
            wanted="a package's file that this user may read",
            fix="check its permissions",
        ) from error


def members(deb: Path, paths: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """The content of some of a package's files, in the package's order.

    Args:
        deb: the package's file.
        paths: which files, by their path when installed, such as /usr/share/a.png.

    Yields:
        Path and content.

    Raises:
        DataError: a file is not in the package.
    """
    missing = set(paths)
    with _data(deb) as tar:
        for member in tar:
            path = "/" + member.name.removeprefix("./").removeprefix("/")
            if path not in missing or not member.isfile():
                continue
            missing.remove(path)
            content = tar.extractfile(member)
            assert content is not None
            yield path, content.read()
            if not missing:
                return
    if missing:
        raise DataError(
            f"{deb.name} does not hold {min(missing)}"
            + (f" and {len(missing) - 1} more of the listed files" if len(missing) > 1 else ""),
            wanted="every listed file in the package",
            fix="restore files.csv and packages.json from the repository",
        )


@contextmanager
def _data(deb: Path) -> Iterator[tarfile.TarFile]:
    """The files of a package: the member data.tar.* of an `ar` archive."""
    with deb.open("rb") as file:
        name, size = _find_data(file, deb)
        kind = name.rpartition(".")[2]
        if kind in tarfile.TarFile.OPEN_METH:  # what this Python can decompress
            part: Any = _Part(file, size)
            with tarfile.open(fileobj=part, mode=f"r|{kind}") as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
                yield tar
            return
    dpkg = shutil.which("dpkg-deb")
    if dpkg is None:
        raise BackendError(
            f"{deb.name} is compressed as {kind}, which this Python cannot read, and dpkg-deb is not installed",
            wanted="one of the two",
            fix="install dpkg, or use a later Python (3.14 reads zst)",
        )
    with subprocess.Popen([dpkg, "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                yield tar
        finally:
            process.kill()  # it may have more to say than was wanted


def _find_data(file: IO[bytes], deb: Path) -> tuple[str, int]:
    """Name and bytes of the member data.tar.*, with the file standing at its start."""
    if file.read(len(AR_MAGIC)) == AR_MAGIC:
        while len(header := file.read(AR_HEADER)) == AR_HEADER:
            name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
            if name.startswith("data.tar"):
                return name, size
            file.seek(size + size % 2, 1)  # members start at even places
    raise DataError(f"{deb.name} is not a Debian package", wanted="an ar archive with data.tar.*", fix="fetch it again")


class _Part:
    """The next `size` bytes of a file, as a file of its own."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data
