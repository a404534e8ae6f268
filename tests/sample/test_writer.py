import json
from pathlib import Path

import pytest
from PIL import Image

from anyres.cli import main
from anyres.errors import DataError
from anyres.grid import Size
from anyres.sample.writer import read_recipe, save_images, write_contact_sheet
from tests.made import picture, pipeline

RECIPE = {"label": "a/b ü", "size": "24x16", "seed": 7, "model": "made"}


def test_recipes_come_back_from_the_file(tmp_path: Path) -> None:
    saved = save_images([picture(Size(16, 24), 0)], [RECIPE], tmp_path)
    assert saved.paths[0].name == "a-b-ü-24x16-seed7.png"
    assert read_recipe(saved.paths[0]) == RECIPE
    assert saved.sheet is None
    picture(Size(16, 24), 0).save(tmp_path / "other.png")
    with pytest.raises(DataError, match="holds no recipe"):
        read_recipe(tmp_path / "other.png")


def test_files_are_never_overwritten_unless_asked(tmp_path: Path) -> None:
    images, recipes = [picture(Size(16, 24), i) for i in range(3)], [RECIPE] * 3
    first = save_images(images, recipes, tmp_path)
    second = save_images(images[:1], recipes[:1], tmp_path)
    assert len({*first.paths, *second.paths}) == 4
    assert second.paths[0].name.endswith("seed7-4.png")
    again = save_images(images[1:2], recipes[:1], tmp_path, overwrite=True)
    assert again.paths[0] == first.paths[0]
    assert Image.open(again.paths[0]).tobytes() == images[1].tobytes()


def test_the_contact_sheet_holds_every_picture_at_its_own_shape(tmp_path: Path) -> None:
    images = [picture(Size(h, w), i) for i, (h, w) in enumerate([(100, 900), (300, 600), (50, 50)])]
    sheet = Image.open(write_contact_sheet(images, ["one", "two", "three"], tmp_path / "sheet.png"))
    pixels = sheet.convert("RGB")
    # the first row holds one picture, the second two
    assert pixels.crop((8, 8, 908, 108)).tobytes() == images[0].tobytes()
    assert pixels.crop((8, 132, 608, 432)).tobytes() == images[1].tobytes()
    assert pixels.crop((616, 132, 666, 182)).tobytes() == images[2].tobytes()


def test_the_command_makes_pictures_with_their_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline().save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    command = ["sample", str(tmp_path / "model"), "--label", "planet", "1", "--size", "32x64", "--seed", "5", "6"]
    assert main([*command, "--count", "2", "--steps", "2", "--interval", "0.1", "0.5", "--out", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {f"{label}-32x64-seed{seed}.png" for label, seed in
                     (("planet", 5), ("planet", 6), ("nebula", 6), ("nebula", 7))} | {"contact-sheet.png"}  # fmt: skip
    recipe = read_recipe(out / "planet-32x64-seed6.png")
    assert recipe["steps"] == 2
    assert recipe["guidance_low"] == 0.1
    assert recipe["solver"] == "euler"
    assert "contact-sheet.png" in capsys.readouterr().out
    single = ["--label", "planet", "--size", "32x64", "--seed", "6", "--steps", "2", "--interval", "0.1", "0.5"]
    assert main(["sample", str(tmp_path / "model"), *single, "--out", str(tmp_path / "one")]) == 0
    alone = Image.open(tmp_path / "one" / "planet-32x64-seed6.png")
    together = Image.open(out / "planet-32x64-seed6.png")
    difference = [abs(a - b) for a, b in zip(alone.tobytes(), together.tobytes(), strict=True)]
    assert max(difference) <= 1  # packs differ, so equal to rounding


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "lnad"], "did you mean 'land'"),
        (["--label", "land", "--size", "250x128"], "use 256x128 or 240x128"),
        (["--label", "land", "--size", "0x128"], "at least 1 px"),
        (["--label", "land", "--attention", "varlen"], "needs a CUDA device"),
        (["--label", "land", "--attention", "fast"], "one of auto, reference"),
        (["--label", "land", "--device", "cuda:7"], "not available"),
        (["--label", "land", "--device", "tpu"], "one of auto, cpu"),
        (["--label", "land", "--solver", "eular"], "did you mean 'euler'"),
        (["--label", "land", "--budget", "0"], "budget of 0"),
        (["--label", "land", "--dtype", "int8"], "float32"),
    ],
)
def test_bad_input_leaves_with_2_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    pipeline().save_pretrained(tmp_path / "model")
    assert main(["sample", str(tmp_path / "model"), *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "wanted:" in error
    assert "to fix:" in error
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_model_yet_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({}))
    assert main(["sample", str(tmp_path), "--label", "x"]) == 2
    assert "has not saved yet" in capsys.readouterr().err
