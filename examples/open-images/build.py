"""Build a set of open images, by label, from Debian packages.

python examples/open-images/build.py --out DIR [--labels land planet ...] [--packages DIR]

Makes the pictures that `files.csv` lists, and nothing else of those packages, as DIR/images/LABEL/NAME.webp, and
DIR/ATTRIBUTION.csv with each picture's source, license and authors. What is there already and right is kept.
"""

import csv
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import deb_packages
import pictures
import tyro
from pictures import Listed

from anyres.cli import reporting_errors
from anyres.config import suggestion
from anyres.errors import ConfigError, DataError
from anyres.files import make_folder, read_json, remove_leftovers, replacing
from anyres.progress import progress

HERE = Path(__file__).resolve().parent
ATTRIBUTION = ("file", "package", "path", "license", "attribution")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to build, and where."""

    out: Path
    """A folder for images/LABEL/NAME.webp and ATTRIBUTION.csv."""
    labels: tuple[str, ...] = ()
    """Only these labels; by default all."""
    packages: Path | None = None
    """A folder with the .deb files; those not there are fetched into it by apt-get. By default OUT/packages."""


def build(options: Options) -> str:
    """Make what is not there yet; returns a line that says what was done."""
    listed = _chosen(pictures.read_list(HERE / "files.csv"), options.labels)
    known = deb_packages.read_packages(HERE / "packages.json")
    images = make_folder(options.out / "images")
    for label in sorted({picture.label for picture in listed}):
        remove_leftovers(make_folder(images / label))
    done = {picture: agrees for picture in listed if (agrees := _there(images / picture.file, picture))}
    kept = len(done)
    with progress("making pictures", len(listed), "image", done=kept) as bar:
        for name in sorted({picture.package for picture in listed if picture not in done}):
            deb = deb_packages.obtain(_known(name, known), options.packages or options.out / "packages")
            missing = {picture.path: picture for picture in listed if picture.package == name and picture not in done}
            for path, content in deb_packages.members(deb, missing):
                picture = missing[path]
                encoded = pictures.make(content, f"{path} of {name}")
                done[picture] = pictures.check(encoded, picture)
                with replacing(images / picture.file) as temporary:
                    temporary.write_bytes(encoded)
                bar.advance()
    _write_attribution(options.out)
    counts = Counter(done.values())
    return (
        f"{images}: {len(done)} images of {len({picture.label for picture in listed})} labels; "
        f"{len(done) - kept} made, {kept} kept; {counts['same']} the same as listed, {counts['alike']} alike"
    )


def _chosen(listed: list[Listed], labels: Sequence[str]) -> list[Listed]:
    known = sorted({picture.label for picture in listed})
    renamed = read_json(HERE / "labels.json")
    for label in labels:
        if label not in known:
            raise ConfigError(
                f"there is no label {label!r}",
                wanted=f"some of {', '.join(known)}",
                fix=f"it is called {renamed[label]!r} here"
                if label in renamed
                else suggestion(label, known) or "choose from these",
            )
    return [picture for picture in listed if not labels or picture.label in labels]


def _known(name: str, known: dict[str, deb_packages.Package]) -> deb_packages.Package:
    if name not in known:
        raise DataError(
            f"files.csv names the package {name}, which packages.json does not",
            wanted="each package with its version and checksum",
            fix="restore both files from the repository",
        )
    return known[name]


def _there(path: Path, picture: Listed) -> pictures.Agreement | None:
    return pictures.agreement(path.read_bytes(), picture) if path.is_file() else None


def _write_attribution(out: Path) -> None:
    """Name the source of every listed picture that is there, also from a run with other labels."""
    there: Iterable[Listed] = (
        picture for picture in pictures.read_list(HERE / "files.csv") if (out / "images" / picture.file).is_file()
    )
    with replacing(out / "ATTRIBUTION.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(ATTRIBUTION)
        table.writerows([getattr(picture, column) for column in ATTRIBUTION] for picture in there)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options and build; returns the exit status."""

    def work() -> int:
        print(build(tyro.cli(Options, prog="build.py", description=__doc__, args=arguments)))
        return 0

    return reporting_errors("build.py", work)


if __name__ == "__main__":
    sys.exit(main())
