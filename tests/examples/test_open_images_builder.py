"""The builder of the open images, on packages and a list made here."""

import base64
import csv
import hashlib
import importlib
import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image, ImageDraw

EXAMPLE = Path(__file__).parents[2] / "examples" / "open-images"
MODULES = ("build", "deb_packages", "pictures")
NAME, VERSION = "pictures-made-up", "1:2.0-1"


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The builder, whose list is beside the packages; it is imported as the script does it, and forgotten again."""
    monkeypatch.syspath_prepend(EXAMPLE)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("build")
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(module, "HERE", tmp_path / "list")
    monkeypatch.setenv("PATH", "")  # no apt-get, and no network by it
    return module


def drawing(size: tuple[int, int], box: tuple[int, int, int, int], colour: str) -> bytes:
    """A PNG of an ellipse on nothing."""
    image = Image.new("RGBA", size)
    ImageDraw.Draw(image).ellipse(box, fill=colour)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


FILES = {  # path in the package: content
    "/usr/share/pictures/sun.png": drawing((90, 80), (10, 5, 70, 75), "orange"),
    "/usr/share/pictures/fish.png": drawing((1100, 300), (20, 20, 1043, 275), "teal"),
    "/usr/share/pictures/moon.png": drawing((64, 64), (0, 0, 63, 63), "navy"),
    "/usr/share/doc/not-listed": b"not listed",
}
PLACES = {"fish/a.webp": "fish", "sky/b.webp": "sun", "sky/c.webp": "moon"}
SIZES = {"fish/a.webp": (512, 128), "sky/b.webp": (61, 71), "sky/c.webp": (64, 64)}


def deb(path: Path, files: dict[str, bytes], data_name: str = "data.tar.xz") -> None:
    """Write a Debian package: an ar archive of a version, what describes it, and the files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo("." + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    archive = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (data_name, data.getvalue())):
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        archive += content + b"\n" * (len(content) % 2)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(archive)


@dataclass(frozen=True)
class Made:
    """A package, a list of its pictures, and where they are to go."""

    deb: Path
    lists: Path
    out: Path

    @property
    def arguments(self) -> list[str]:
        return ["--out", str(self.out), "--packages", str(self.deb.parent)]

    def pin(self, sha256: str | None = None) -> None:
        """Pin the package as it is, or by another checksum."""
        sha256 = sha256 or hashlib.sha256(self.deb.read_bytes()).hexdigest()
        pinned = [{"name": NAME, "version": VERSION, "sha256": sha256}]
        (self.lists / "packages.json").write_text(json.dumps(pinned))

    def images(self) -> dict[str, bytes]:
        folder = self.out / "images"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def made(build: ModuleType, tmp_path: Path) -> Made:
    made = Made(tmp_path / "debs" / f"{NAME}_2.0-1_all.deb", tmp_path / "list", tmp_path / "out")
    deb(made.deb, FILES)
    made.lists.mkdir()
    made.pin()
    (made.lists / "labels.json").write_text('{"space-sky": "sky", "sea-fish": "fish"}')
    with (made.lists / "files.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(build.Listed.__dataclass_fields__)
        for name, source in PLACES.items():
            path = f"/usr/share/pictures/{source}.png"
            webp = build.pictures.make(FILES[path], path)
            decoded = Image.open(io.BytesIO(webp)).convert("RGB")
            sums = [hashlib.sha256(data).hexdigest() for data in (webp, decoded.tobytes())]
            colours = build.pictures.colours(decoded).hex()
            table.writerow([name, *SIZES[name], NAME, path, "CC-BY-4.0", "Someone, Someone Else", *sums, colours])
    return made


def test_the_listed_pictures_are_made_and_nothing_else(
    build: ModuleType, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build.main(made.arguments) == 0
    assert "3 images of 2 labels; 3 made, 0 kept; 3 the same as listed, 0 alike" in capsys.readouterr().out
    assert {name: Image.open(io.BytesIO(data)).size for name, data in made.images().items()} == SIZES
    corner = Image.open(made.out / "images" / "sky" / "b.webp").convert("L").crop((0, 0, 1, 1)).tobytes()
    assert corner[0] >= 250  # what was transparent is white
    rows = list(csv.DictReader((made.out / "ATTRIBUTION.csv").open()))
    assert [row["file"] for row in rows] == sorted(PLACES)
    assert {(row["package"], row["license"], row["attribution"]) for row in rows} == {
        (NAME, "CC-BY-4.0", "Someone, Someone Else")
    }


def test_what_is_right_is_kept_and_what_is_damaged_or_missing_is_made_again(
    build: ModuleType, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build.main(made.arguments) == 0
    before = made.images()
    kept, damaged, missing = (made.out / "images" / name for name in PLACES)
    damaged.write_bytes(damaged.read_bytes()[:100])
    missing.unlink()
    (missing.parent / ".c.webp.1.tmp").write_bytes(b"of a run that was killed")
    time = kept.stat().st_mtime_ns
    assert build.main(made.arguments) == 0
    assert "2 made, 1 kept" in capsys.readouterr().out
    assert (made.images(), kept.stat().st_mtime_ns) == (before, time)
    made.deb.unlink()
    assert build.main(made.arguments) == 0  # nothing to make needs no package


def test_only_the_labels_asked_for_are_made_and_the_others_stay_attributed(build: ModuleType, made: Made) -> None:
    assert build.main([*made.arguments, "--labels", "fish"]) == 0
    assert list(made.images()) == ["fish/a.webp"]
    assert build.main([*made.arguments, "--labels", "sky"]) == 0
    assert len((made.out / "ATTRIBUTION.csv").read_text().splitlines()) == 1 + len(PLACES)


def test_another_encoder_is_alike_and_another_picture_is_not(build: ModuleType, made: Made) -> None:
    pictures, (listed, *_) = build.pictures, build.pictures.read_list(made.lists / "files.csv")
    content = FILES[listed.path]
    assert pictures.agreement(pictures.make(content, ""), listed) == "same"
    recoded = io.BytesIO()
    Image.open(io.BytesIO(pictures.make(content, ""))).save(recoded, "WEBP", quality=70, method=0)
    assert pictures.agreement(recoded.getvalue(), listed) == "alike"
    recoded = recoded.getvalue()
    assert pictures.agreement(recoded, replace(listed, width=511)) is None
    shifted = bytes((value + 3) % 256 for value in bytes.fromhex(listed.colours))
    assert pictures.agreement(recoded, replace(listed, colours=shifted.hex())) is None


def refused(build: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What it says when it leaves with status 2."""
    assert build.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("build.py: ")
    assert all(word in told for word in ("\n  wanted: ", "\n  to fix: "))
    assert "Traceback" not in told
    return told


def test_a_listed_file_that_the_package_lacks(
    build: ModuleType, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    deb(made.deb, {path: content for path, content in FILES.items() if "sun" not in path})
    made.pin()
    told = refused(build, made.arguments, capsys)
    assert f"{made.deb.name} does not hold /usr/share/pictures/sun.png" in told
    assert sorted(made.images()) == ["fish/a.webp", "sky/c.webp"]  # what was made stays


@pytest.mark.parametrize(
    "content", [drawing((90, 80), (10, 5, 70, 75), "blue"), b"no image", FILES["/usr/share/pictures/moon.png"]]
)
def test_a_file_that_is_not_what_the_list_says(
    content: bytes, build: ModuleType, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    deb(made.deb, {**FILES, "/usr/share/pictures/sun.png": content})
    made.pin()
    told = refused(build, made.arguments, capsys)
    assert "/usr/share/pictures/sun.png of pictures-made-up" in told
    assert "sky/b.webp" not in made.images()


def test_a_package_with_the_wrong_checksum(build: ModuleType, made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.pin("0" * 64)
    told = refused(build, made.arguments, capsys)
    assert all(word in told for word in (made.deb.name, "0" * 64, f"{NAME} {VERSION}"))
    assert made.images() == {}


@pytest.mark.parametrize(("label", "hint"), [("space-sky", "it is called 'sky' here"), ("fisch", "'fish'")])
def test_an_unknown_label(
    label: str, hint: str, build: ModuleType, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(build, [*made.arguments, "--labels", "sky", label], capsys)
    assert all(word in told for word in (repr(label), "fish, sky", hint))


def test_no_package_and_no_way_to_fetch_it(build: ModuleType, made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(build, ["--out", str(made.out)], capsys)
    assert all(word in told for word in (f"{NAME} {VERSION}", "apt-get is not installed", "snapshot", "--packages DIR"))


@pytest.mark.parametrize("works", [True, False])
def test_apt_get_fetches_what_is_not_there(
    works: bool, build: ModuleType, made: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = made.deb.parent
    told = f"echo {base64.b64encode(made.deb.read_bytes()).decode()} | /usr/bin/base64 -d > {made.deb.name}"
    script = f'#!/bin/sh\n[ "$*" = "download {NAME}={VERSION}" ] || exit 3\n'
    (tools / "apt-get").write_text(script + (told if works else "echo 'E: not found' >&2; exit 100") + "\n")
    (tools / "apt-get").chmod(0o755)
    made.deb.unlink()
    monkeypatch.setenv("PATH", str(tools))
    if works:
        assert build.main(["--out", str(made.out)]) == 0
        assert [path.name for path in (made.out / "packages").iterdir()] == [made.deb.name]
    else:
        assert "apt-get download says: E: not found" in refused(build, ["--out", str(made.out)], capsys)


def test_a_package_compressed_in_a_way_that_nothing_here_reads(
    build: ModuleType, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    deb(made.deb, FILES, "data.tar.odd")
    made.pin()
    assert "compressed as odd" in refused(build, made.arguments, capsys)


def test_the_script_leaves_with_status_2_and_no_traceback(tmp_path: Path) -> None:
    script = [sys.executable, str(EXAMPLE / "build.py"), "--out", str(tmp_path), "--labels", "nothing-such"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": ""})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("build.py: there is no label 'nothing-such'")


def test_the_list_in_the_repository_fits_together(build: ModuleType) -> None:
    listed = build.pictures.read_list(EXAMPLE / "files.csv")
    labels = json.loads((EXAMPLE / "labels.json").read_text())
    assert {picture.label for picture in listed} == set(labels.values())
    assert {picture.package for picture in listed} == set(build.deb_packages.read_packages(EXAMPLE / "packages.json"))
    assert len({picture.file for picture in listed}) == len(listed)
    assert len({(picture.package, picture.path) for picture in listed}) == len(listed)
    assert {picture.license for picture in listed} == {"public domain", "CC-BY-SA-3.0", "CC-BY-SA-4.0"}
    assert all(picture.attribution for picture in listed)
