"""`anyres sample --from`: the files it writes, what they say of themselves, and what it refuses."""

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from anyres.cli import main
from anyres.grid import Size
from anyres.sample.writer import read_recipe
from tests.made import picture, pipeline


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a picture and masks."""
    folder = tmp_path_factory.mktemp("made")
    pipeline().save_pretrained(folder / "model")
    picture(Size(64, 96), 1).save(folder / "wide.png")
    picture(Size(64, 64), 2).save(folder / "square.jpg")
    mask = Image.new("L", (96, 64))
    mask.paste(255, (32, 16, 64, 48))
    mask.save(folder / "mask.png")
    mask.resize((96, 32)).save(folder / "other.png")
    Image.new("L", (96, 64)).save(folder / "black.png")
    return folder


def sample(made: Path, out: Path, *arguments: str) -> int:
    words = [str(made / word) if word.endswith((".png", ".jpg")) else word for word in arguments]
    return main(["sample", str(made / "model"), "--label", "land", "--device", "cpu", "--out", str(out), *words])


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_recipes_are_enough_to_make_the_pictures_again(made: Path, tmp_path: Path) -> None:
    first = ["--from", "wide.png", "--mask", "mask.png", "--strength", "0.5", "--seed", "7", "--no-paste"]
    assert sample(made, tmp_path / "a", *first) == 0
    path = tmp_path / "a" / "land-96x64-seed7.png"
    start = read_recipe(path)["start"]
    assert start == {
        "picture": "wide.png",
        "sha256": digest(made / "wide.png"),
        "mask": "mask.png",
        "mask_sha256": digest(made / "mask.png"),
        "strength": 0.5,
        "place": "crop",
        "paste": False,
    }
    again = ["--from", start["picture"], "--mask", start["mask"], "--strength", str(start["strength"])]
    assert sample(made, tmp_path / "b", *again, "--place", start["place"], "--seed", "7", "--no-paste") == 0
    assert Image.open(tmp_path / "b" / path.name).tobytes() == Image.open(path).tobytes()
    assert sample(made, tmp_path / "c", *again, "--seed", "7") == 0
    assert Image.open(tmp_path / "c" / path.name).tobytes() != Image.open(path).tobytes()


def test_pictures_from_noise_alone_say_so(made: Path, tmp_path: Path) -> None:
    assert sample(made, tmp_path, "--size", "32x32") == 0
    assert read_recipe(tmp_path / "land-32x32-seed0.png")["start"] is None


def test_one_picture_at_several_shapes_and_several_pictures_at_their_own(made: Path, tmp_path: Path) -> None:
    shapes = ["96x64", "32x96", "64x64"]
    assert sample(made, tmp_path / "a", "--from", "wide.png", "--place", "extend", "--size", *shapes[1:]) == 0
    names = [f"land-{shape}-seed{i}.png" for i, shape in enumerate(shapes[1:])]
    assert {path.name for path in (tmp_path / "a").iterdir()} == {*names, "contact-sheet.png"}
    assert read_recipe(tmp_path / "a" / names[0])["start"]["strength"] == 0
    assert sample(made, tmp_path / "b", "--from", "wide.png", "square.jpg", "--count", "2") == 0
    names = ["land-96x64-seed0.png", "land-96x64-seed1.png", "land-64x64-seed2.png", "land-64x64-seed3.png"]
    assert {path.name for path in (tmp_path / "b").iterdir()} == {*names, "contact-sheet.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "gone.png"], "No such file"),
        (["--strength", "0.5"], "--strength without a picture"),
        (["--mask", "mask.png", "--place", "extend"], "--mask and --place without a picture"),
        (["--from", "wide.png", "--strength", "2"], "strength 2"),
        (["--from", "wide.png", "--strength", "0.1"], "at least 0.25"),
        (["--from", "wide.png", "--mask", "other.png"], "a mask of 96x32 px on a picture of 96x64"),
        (["--from", "wide.png", "--mask", "black.png"], "all stays"),
        (["--from", "wide.png", "--place", "extnd"], "did you mean 'extend'"),
        (["--from", "wide.png", "--place", "8,0", "--size", "128x64"], "use 0,0"),
        (["--from", "wide.png", "square.jpg", "--strength", "0.5", "0.5", "0.5"], "2 --from, 3 --strength"),
        (["--from", "wide.png", "square.jpg", "--size", "32x32", "32x32", "32x32"], "3 sizes"),
    ],
)
def test_bad_input_leaves_with_2_and_says_why(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert sample(made, tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "wanted:" in error
    assert "to fix:" in error
    assert not (tmp_path / "out").exists()
