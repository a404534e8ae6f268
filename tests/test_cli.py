"""The command line: what it prints, where, and with which status it leaves."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyres import __version__
from anyres.cli import COMMANDS, USAGE, main
from anyres.latents.format import LatentDataset
from tests.made import dataset, pipeline


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("made"), multiple_of_cells=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    pipeline().save_pretrained(folder)
    return folder


def status_of(arguments: list[str]) -> int:
    """What the process would leave with; the options' parser leaves by itself."""
    try:
        return main(arguments)
    except SystemExit as leaving:
        return leaving.code


def test_help_answers_without_anything_heavy() -> None:
    code = (
        "import sys; from anyres.cli import main; status = main(['--help']);"
        "heavy = {'torch', 'numpy', 'tyro', 'PIL', 'pyarrow', 'diffusers', 'rich', 'einops', 'safetensors'};"
        "sys.exit(status or ' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == USAGE


def test_the_installed_command_is_this_one() -> None:
    done = subprocess.run([Path(sys.executable).parent / "anyres", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"anyres {__version__}\n")


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["-h"], 0), (["help"], 0), ([], 2), (["-v"], 2)])
def test_usage_names_every_command(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == status
    usage = capsys.readouterr().out
    assert all(re.search(rf"^  {command} ", usage, re.MULTILINE) for command in COMMANDS)


@pytest.mark.parametrize("before", [None, "7"])
def test_threads_spin_briefly_unless_the_environment_says_otherwise(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", before or "")
    if before is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    assert main(["inspect", "/nowhere"]) == 2
    assert os.environ["GOMP_SPINCOUNT"] == (before or "1000")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"anyres {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of([command, "--help"]) == 0
    printed = capsys.readouterr()
    assert f"usage: anyres {command}" in printed.out
    assert "--out" in printed.out
    assert printed.err == ""


@pytest.mark.parametrize(
    ("name", "hint"), [("sampel", "did you mean 'sample'?"), ("Train", "did you mean 'train'?"), ("xyzzy", "--help")]
)
def test_an_unknown_command_offers_the_close_one(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"anyres {name}: ")
    assert hint in printed.err
    assert "prepare, inspect, train, sample" in printed.err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["inspect"], "required"),
        (["inspect", "x", "--nope"], "--nope"),
        (["inspect", "x", "--patch", "two"], "--patch"),
        (["sample", "x"], "--label"),
        (["sample", "x", "--label", "a", "--steps", "many"], "--steps"),
        (["sample", "x", "--label", "a", "--interval", "0.1"], "--interval"),
        (["train", "tutorial", "--out", "x"], "--data"),
        (["train", "tutorial", "--data", "{data}", "--out", "x", "--ema.kind", "odd"], "--ema.kind"),
        (["prepare", "x"], "--out"),
        (["prepare", "x", "--out", "y", "--variants", "square-100"], "--variants"),
    ],
)
def test_a_wrong_option_is_named(
    arguments: list[str], word: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of([argument.format(data=data) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert word in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "{here}/missing"], "no folder"),
        (["inspect", "{here}"], "anyres prepare IMAGES"),
        (["inspect", "{model}"], "--attention"),
        (["inspect", "{data}", "--patch", "0"], "patch = 0"),
        (["inspect", "{data}", "--patch", "4"], "--multiple-of-cells 4"),
        (["inspect", "{data}", "--budgets", "12", "0"], "at least 1 token"),
        (["inspect", "{here}/missing", "--attention"], "missing"),
        (["inspect", "{data}", "--attention"], "holds no pipeline"),
        (["inspect", "{model}", "--attention", "--sizes", "32x32"], "got 1 sizes"),
        (["inspect", "{model}", "--attention", "--sizes", "32x32", "16x16", "30x16"], "use 32x16"),
        (["inspect", "{model}", "--attention", "--sizes", "32x32", "16x16", "0x16"], "at least 1 px"),
        (["inspect", "{model}", "--attention", "--sizes", "32x32", "16x16", "big"], "WIDTHxHEIGHT"),
        (["sample", "{here}/missing", "--label", "land"], "missing"),
        (["sample", "{data}", "--label", "land"], "pipeline"),
        (["sample", "{model}", "--label", "land", "--count", "0"], "count = 0"),
        (["sample", "{model}", "--label", "land", "--steps", "0"], "steps"),
        (["sample", "{model}", "--label", "land", "--out", "{model}/config.json/below"], "cannot write"),
        (["train", "tutorial", "--data", "{data}", "--out", "{here}/run", "--pictures.sizes", "0x8"], "at least 1 px"),
        (["train", "tutorial", "--data", "{data}", "--out", "{here}/run", "--ema.width", "0.5"], "width = 0.5"),
    ],
)
def test_bad_input_leaves_with_2_and_says_why(
    arguments: list[str], message: str, data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(data=data, model=model, here=tmp_path) for argument in arguments]
    before = [sorted(folder.rglob("*")) for folder in (data, model)]
    assert main(filled) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"anyres {arguments[0]}: ")
    assert message in printed.err
    assert "\n  wanted: " in printed.err
    assert "\n  to fix: " in printed.err
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []
    assert [sorted(folder.rglob("*")) for folder in (data, model)] == before


def test_an_interrupt_leaves_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "sample", interrupted)
    assert main(["sample", "x"]) == 130
    assert capsys.readouterr().err == "anyres sample: interrupted\n"


PRINTING = """
import sys
from anyres import cli
cli.COMMANDS["sample"] = lambda arguments: print(arguments[0] * 8) or 0
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], [], ["sample", "little"], ["sample", "m" * 30_000]])
def test_a_reader_that_has_gone_is_no_error_of_ours(arguments: list[str], unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", PRINTING, *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=environment, text=True)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_reader_that_has_gone_before_an_options_help_is_no_error_either() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "anyres.cli", "sample", "--help"]
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_inspect_prints_tables_and_draws_plots(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plots"
    assert main(["inspect", str(data), "--patch", "2", "--budgets", "12", "24", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    opened = LatentDataset.open(data)
    for words in (["images", str(opened.info.images)], ["cat", "12"], ["dog", "12"], ["wide"], ["lpfhp"], ["24"]):
        assert any(set(words) <= set(line.split()) for line in printed.splitlines()), words
    plots = sorted(out.iterdir())
    assert [plot.name for plot in plots] == ["labels.png", "packing.png", "sizes.png"]
    for plot in plots:
        assert str(plot) in printed
        picture = Image.open(plot)
        assert picture.format == "PNG"
        assert min(picture.size) > 150
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_inspect_draws_beside_the_dataset_by_default(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(data)]) == 0
    assert str(data / "inspect" / "sizes.png") in capsys.readouterr().out
    assert (data / "inspect" / "sizes.png").is_file()
    assert len(LatentDataset.open(data)) == 24  # the plots do not disturb the dataset


def test_inspect_draws_the_attention_of_three_images(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["inspect", str(model), "--attention", "--sizes", "48x32", "32x32", "16x64", "--out", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "a pack of 14 tokens: land 48x32, nebula 32x32, planet 16x64" in printed
    assert "another image: 0\n" in printed
    picture = Image.open(tmp_path / "attention.png")
    assert len(np.unique(np.asarray(picture.convert("L")))) > 50
