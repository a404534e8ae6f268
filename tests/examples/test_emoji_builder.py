"""The builder of the emoji, by a font where there is one, and by what it says where there is none."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image, features

SCRIPT = Path(__file__).parents[2] / "examples" / "emoji" / "build.py"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """The script."""
    spec = importlib.util.spec_from_file_location("build_emoji", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_text_is_asked_for_twice_and_each_is_a_character_and_its_modifiers(build: ModuleType) -> None:
    texts = build.texts()
    everything = [text for of_label in texts.values() for text in of_label]
    assert len(set(everything)) == len(everything)
    assert {label: len(of_label) for label, of_label in texts.items()} == {"face": 103, "person": 318, "hand": 180}
    modifiers = {*build.TONES, *"\u200d\u2640\u2642\ufe0f"}
    assert all(set(text[1:]) <= modifiers for text in everything)
    assert all(len(text) == 1 for text in texts["face"])


def test_a_missing_font_and_a_file_that_is_none_are_told(
    build: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "FONTS", (str(tmp_path / "nowhere.ttf"),))
    monkeypatch.setattr(build.features, "check", lambda name: True)
    assert build.main(["--out", str(tmp_path / "out")]) == 2
    assert "apt-get install fonts-noto-color-emoji" in capsys.readouterr().err
    (tmp_path / "no-font.ttf").write_text("no font")
    assert build.main(["--out", str(tmp_path / "out"), "--font", str(tmp_path / "no-font.ttf")]) == 2
    assert "cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def font(build: ModuleType) -> Path:
    """The installed font."""
    found = next((Path(place) for place in build.FONTS if Path(place).is_file()), None)
    if found is None or not features.check("raqm"):
        pytest.skip("wants the font Noto Color Emoji, and Pillow with raqm")
    return found


def test_pictures_are_of_one_glyph_on_white_without_a_border(build: ModuleType, font: Path, tmp_path: Path) -> None:
    assert build.main(["--out", str(tmp_path), "--font", str(font)]) == 0
    counts = {folder.name: len(list(folder.iterdir())) for folder in tmp_path.iterdir()}
    assert all(100 <= counts[label] <= len(of_label) for label, of_label in build.texts().items())
    waving = Image.open(tmp_path / "hand" / "1f44b-1f3ff.webp").convert(
        "L"
    )  # with its tone, and not a square beside it
    assert max(waving.size) <= 136
    rows = [waving.crop((0, y, waving.width, y + 1)).getextrema()[0] for y in (0, waving.height - 1)]
    assert max(rows) < 250  # it reaches its borders
