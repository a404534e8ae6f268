"""The wheel holds the whole package, models too, and works where there is no checkout."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.made import dc_pipeline

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NAME = "made-for-the-wheel"


def run(*command: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *command], env=kept | environment, cwd=folder, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources as they are, and one model more in the box."""
    folder = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    # what git ignores does not reach the wheel
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    model = folder / "src" / "anyres" / "models" / NAME
    dc_pipeline().save_pretrained(model, dtype=torch.float16, max_shard_size="60KB")
    assert len(list(model.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    here = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    done = run("-m", "pip", "wheel", ".", "--no-deps", *here, "--wheel-dir", out, folder=tree)
    if "No matching distribution found for hatchling" in done.stderr:
        pytest.skip("hatchling, which builds the wheel, is not installed and cannot be fetched")
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


def test_every_file_of_the_package_is_in_the_wheel(tree: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {info.filename: info.file_size for info in archive.infolist() if info.filename.startswith("anyres/")}
    source = tree / "src"
    assert packed == {
        path.relative_to(source).as_posix(): path.stat().st_size for path in source.rglob("*") if path.is_file()
    }
    assert f"anyres/models/{NAME}/pipeline.json" in packed
    assert f"anyres/models/{NAME}/autoencoder/config.json" in packed


def test_the_installed_wheel_samples_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run("-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel, folder=elsewhere)
    assert done.returncode == 0, done.stderr
    options = ["--label", "land", "--size", "32x16", "--device", "cpu"]
    done = run("-m", "anyres.cli", "sample", NAME, *options, folder=elsewhere, PYTHONPATH=str(site))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "samples/land-32x16-seed0.png\n"
    assert Image.open(elsewhere / "samples" / "land-32x16-seed0.png").size == (32, 16)
    # it was this one that ran, and its model is the package's
    done = run("-m", "anyres.cli", "sample", "no-such", *options, folder=elsewhere, PYTHONPATH=str(site))
    assert NAME in done.stderr
