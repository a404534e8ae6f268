"""Models in the box: named, offline, on a machine that nothing may be written to; and what damage to them says."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from anyres import NiT, Pipeline, hub
from anyres.cli import main
from anyres.errors import CheckpointError
from tests.made import dc_pipeline

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as it is shipped: 16 bits, in shards, and an autoencoder in one file."""
    folder = tmp_path_factory.mktemp("made") / "tiny"
    dc_pipeline().save_pretrained(folder, dtype=torch.float16, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture
def box(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(hub, "MODELS", tmp_path / "models")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Path(shutil.copytree(made, tmp_path / "models" / "tiny"))


def sample(*arguments: str) -> int:
    return main(["sample", "tiny", "--label", "land", "--size", "16x8", "--device", "cpu", *arguments])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_name_in_the_box_is_enough(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample("--out", str(tmp_path / "out")) == 0
    (picture,) = (tmp_path / "out").iterdir()
    assert Image.open(picture).size == (16, 8)
    assert str(picture) in capsys.readouterr().out
    pipe = Pipeline.from_pretrained("tiny", device="cpu")
    assert pipe("land", "16x8")[0].tobytes() == Image.open(picture).tobytes()
    assert NiT.from_pretrained("tiny").config == pipe.model.config


@pytest.mark.parametrize(("name", "hint"), [("tniy", "did you mean 'tiny'?"), ("xyzzy", "check the spelling")])
def test_another_name_lists_the_box(name: str, hint: str, box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(box, box.parent / "second")
    assert main(["sample", name, "--label", "land"]) == 2
    error = capsys.readouterr().err
    assert "the models in the box are second, tiny" in error
    assert hint in error


def test_the_options_help_names_the_box(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(box, box.parent / "second")
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    assert "Models in the box: second, tiny." in " ".join(capsys.readouterr().out.split())
    shutil.rmtree(box.parent)
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    assert "in the box" not in capsys.readouterr().out


def test_a_folder_of_the_same_name_is_blamed(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample("--out", "tiny") == 0
    assert sample() == 2
    assert "hides the model tiny in the box" in capsys.readouterr().err


@pytest.mark.skipif(not hub.built_in(), reason="the box is empty")
def test_the_box_is_small() -> None:
    sizes = {path: path.stat().st_size for path in hub.MODELS.rglob("*") if path.is_file()}
    assert max(sizes.values()) <= 16 * 2**20
    assert sum(sizes.values()) <= 32 * 10**6


@pytest.mark.parametrize("name", hub.built_in())  # skipped while the box is empty
def test_a_model_in_the_box_is_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pipe = Pipeline.from_pretrained(name, device="cpu")
    description = json.loads((hub.MODELS / name / "pipeline.json").read_text())
    assert not Path(description["autoencoder"]["name"]).is_absolute()
    side = 4 * pipe.px_per_token
    assert pipe(0, f"{2 * side}x{side}", steps=1)[0].size == (2 * side, side)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def garble(path: Path) -> None:
    path.write_bytes(b"\xff\x00 this is none of ours " * 20)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def lose_the_map(path: Path) -> None:
    path.write_text(json.dumps({"metadata": {"total_size": 1}}))


def make_a_list(path: Path) -> None:
    path.write_text("[1, 2]")


@pytest.mark.parametrize("damage", [truncate, garble, empty, remove, lose_the_map, make_a_list])
@pytest.mark.parametrize(
    "part",
    [
        "model-00002-of-*.safetensors",
        "model.safetensors.index.json",
        "config.json",
        "pipeline.json",
        "labels.json",
        "autoencoder/config.json",
        "autoencoder/diffusion_pytorch_model.safetensors",
    ],
)
def test_damage_is_named_with_the_way_to_mend_it(
    part: str, damage: Callable[[Path], None], box: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = box.glob(part)
    damage(path)
    before = contents(box)
    assert sample("--out", "out") == 2
    printed = capsys.readouterr()
    assert re.match(rf"anyres sample: .*{re.escape(str(path.relative_to(box)))}", printed.err)
    assert "\n  wanted: " in printed.err
    assert "\n  to fix: reinstall anyres: pip install --force-reinstall" in printed.err
    assert "Traceback" not in printed.err
    assert (printed.out, list(Path().iterdir())) == ("", [])
    assert contents(box) == before


def test_an_index_that_names_another_shard(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = box / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00001-of", "model-00099-of"))
    assert sample() == 2
    error = capsys.readouterr().err
    assert re.match(r"anyres sample: .*model-00099-of-\d+\.safetensors does not exist", error)
    assert "reinstall anyres" in error


def test_other_weights_of_the_autoencoder(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = box / "autoencoder" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["decoder.conv_out.bias"] += 1
    save_file(state, path, {"format": "pt"})
    assert sample() == 2
    error = capsys.readouterr().err
    assert f"the autoencoder of {box} is AutoencoderDC" in error
    assert "reinstall anyres" in error


def test_a_models_weights_are_mended_so_too_and_others_are_not(box: Path, tmp_path: Path) -> None:
    remove(box / "config.json")
    with pytest.raises(CheckpointError, match="reinstall anyres"):
        NiT.from_pretrained("tiny")
    shutil.copytree(box, tmp_path / "mine")
    for kind in (NiT, Pipeline):
        with pytest.raises(CheckpointError, match=r"config\.json") as caught:
            kind.from_pretrained(tmp_path / "mine")
        assert "reinstall" not in str(caught.value)


SAMPLE = """
import socket, sys
from pathlib import Path

def refuse(*args, **kwargs):
    print("the network was asked", file=sys.stderr)
    raise OSError("no network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse

from anyres import cli, hub

hub.MODELS = Path(sys.argv[1])
sys.exit(cli.main(["sample", *sys.argv[2:], "--label", "land", "--size", "16x8", "--device", "cpu"]))
"""


def sample_alone(*arguments: str, home: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """`anyres sample` in a process without network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "HUGGINGFACE_"))}
    return subprocess.run(
        [sys.executable, "-c", SAMPLE, str(hub.MODELS), *arguments],
        env={**kept, "HOME": str(home), "PYTHONPATH": str(ROOT / "src")},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_box_needs_neither_network_nor_home_and_stays_as_it_is(box: Path, tmp_path: Path) -> None:
    before = contents(box)
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "home"  # even root cannot write below a file
    done = sample_alone("tiny", "--out", str(tmp_path / "out"), home=home, folder=tmp_path / "here")
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["land-16x8-seed0.png"]
    assert contents(box) == before
    assert list((tmp_path / "here").iterdir()) == []


def test_only_a_hub_id_asks_the_network(box: Path, tmp_path: Path) -> None:
    done = sample_alone("owner/tiny", home=tmp_path / "home", folder=tmp_path / "here")
    assert done.returncode == 2
    assert "the network was asked" in done.stderr
    assert "cannot download 'owner/tiny'" in done.stderr


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that not even root can write to")
@pytest.mark.parametrize("out", [(), ("--out", "deep/below"), ("--out", "/proc/pictures")])
def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    out: tuple[str, ...], box: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_early(*_: Any, **__: Any) -> None:
        raise AssertionError("sampled for nothing")

    monkeypatch.setattr(Pipeline, "latents", too_early)
    monkeypatch.chdir("/proc")
    assert sample(*out) == 2
    printed = capsys.readouterr()
    where = out[1] if out else "samples"
    assert printed.err.startswith(f"anyres sample: cannot write {where}: ")
    assert "to fix: choose another output folder" in printed.err
    assert printed.out == ""
