"""The autoencoder's training on the open images: crops, the split, a short run, and the measuring."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from anyres.cli import reporting_errors
from anyres.errors import ConfigError, DataError
from anyres.grid import Size
from anyres.latents.format import LatentDataset
from anyres.latents.loading import load_autoencoder
from anyres.prepare.encode import prepare
from anyres.prepare.options import PrepareOptions
from tests.made import picture

EXAMPLE = Path(__file__).parents[2] / "examples" / "open-images"
MODULES = ("split", "crops", "perceptual", "measure_autoencoders", "train_autoencoder")
CPU = torch.device("cpu")
SHARE = 0.3
TINY = {
    "channels": (16, 16, 16, 32, 32),
    "encoder_layers": (0, 0, 1, 0, 0),
    "decoder_layers": (0, 0, 1, 0, 0),
    "crop": 32,
    "batch": 4,
    "held_out": SHARE,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def example() -> SimpleNamespace:
    """The example's modules, imported as its scripts do it, and forgotten again."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        return SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(32):
        picture(Size(96, 128), number).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(example: SimpleNamespace, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "first"
    options = example.train_autoencoder.Options(images=images, out=out, minutes=0.1, **TINY)
    assert example.train_autoencoder.main(options) == 0
    return out


def numbered(width: int, height: int) -> Image.Image:
    """An image whose every px differs from all others."""
    places = np.arange(width * height).reshape(height, width)
    return Image.fromarray(np.stack([places % 256, places // 256, np.full_like(places, 7)], axis=2).astype(np.uint8))


def test_crops_are_parts_of_an_image_mirrored_or_not(example: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example.crops, "SHARES", (1.0, 0.0, 0.0))  # reductions have other values
    image = numbered(80, 48)
    whole, mirrored = np.asarray(image), 0
    sampler = example.crops.CropSampler([image], 32, CPU, seed=0)
    for crop in sampler.draw(40):
        found = ((crop.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
        if found[0, 0, 0] > found[0, 1, 0] or (found[0, 0, 0] == 0 and found[0, 1, 0] == 255):
            found, mirrored = found[:, ::-1], mirrored + 1
        top, left = divmod(int(found[0, 0, 0]) + 256 * int(found[0, 0, 1]), 80)
        np.testing.assert_array_equal(found, whole[top : top + 32, left : left + 32])
    assert 8 < mirrored < 32


def test_crops_follow_from_the_seed_and_small_images_are_continued(example: SimpleNamespace) -> None:
    small = Image.new("RGB", (20, 10), (50, 100, 150))
    drawn = [example.crops.CropSampler([small, numbered(64, 64)], 32, CPU, seed).draw(16) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    (crop,) = example.crops.CropSampler([small], 32, CPU, 0).draw(1)
    assert ((crop + 1) * 127.5).round().flatten(1).unique(dim=1).flatten().tolist() == [50, 100, 150]


def test_the_split_is_that_of_training(example: SimpleNamespace, images: Path, tmp_path: Path) -> None:
    report = prepare(PrepareOptions(images=images, out=tmp_path / "data", device="cpu"))
    data = LatentDataset.open(report.folder)
    held = {source for source, out in zip(data.sources, data.held_out(SHARE), strict=True) if out}
    divided = example.split.split(images, SHARE)
    expected = [Image.open(images / source).convert("RGB").tobytes() for source in sorted(held)]
    assert sorted(image.tobytes() for image in divided.held_out) == sorted(expected)
    assert len(divided.training) == len(data) - len(held)


def test_an_image_is_cut_to_whole_cells(example: SimpleNamespace) -> None:
    image = numbered(50, 37)
    made = example.split.to_tensor(image, 16, CPU)
    assert made.shape == (1, 3, 32, 48)
    expected = torch.from_numpy(np.asarray(image)[:32, :48].copy()).permute(2, 0, 1)
    assert torch.equal(((made[0] + 1) * 127.5).round().byte(), expected)


def test_a_run_leaves_an_autoencoder_of_unit_variance(example: SimpleNamespace, images: Path, trained: Path) -> None:
    record = json.loads((trained / "training.json").read_text())
    assert record["record"][-1]["l1"] < record["record"][0]["l1"]
    loaded = load_autoencoder(str(trained))
    training = example.split.split(images, SHARE).training
    latents = torch.cat([loaded.encode(example.split.to_tensor(image, 16, CPU)).flatten(2)[0] for image in training], 1)
    assert loaded.scaling.to_model(latents.T).std().item() == pytest.approx(1, abs=0.01)
    assert (loaded.identity.px_per_cell, loaded.identity.channels) == (16, 32)


def test_a_second_run_goes_on_from_the_first_with_a_perceptual_term(
    example: SimpleNamespace, images: Path, trained: Path, tmp_path: Path
) -> None:
    options = example.train_autoencoder.Options(
        images=images, out=tmp_path, start=trained, minutes=0.05, perceptual=0.1, learning_rate=1e-12, **TINY
    )
    assert example.train_autoencoder.main(options) == 0
    before, after = (load_autoencoder(str(folder)).network.state_dict() for folder in (trained, tmp_path))
    for name, value in after.items():  # at so low a rate they stay what it began with
        torch.testing.assert_close(value, before[name], msg=name)
    assert json.loads((tmp_path / "training.json").read_text())["record"][0]["perceptual"] > 0


def test_the_perceptual_distance_is_none_for_equal_images(example: SimpleNamespace) -> None:
    distance = example.perceptual.PerceptualDistance(CPU)
    ours, theirs = (2 * torch.rand(2, 1, 3, 32, 32) - 1).unbind()
    ours, theirs = ours.requires_grad_(), theirs.requires_grad_()
    assert distance(ours, ours).item() == 0
    distance(ours, theirs).backward()
    assert ours.grad is not None
    assert ours.grad.abs().sum() > 0
    assert theirs.grad is None


def test_psnr_is_that_of_8_bit_pictures(example: SimpleNamespace, trained: Path) -> None:
    image, loaded = numbered(64, 48), load_autoencoder(str(trained))
    pixels = example.split.to_tensor(image, 16, CPU)
    decoded = loaded.decode(loaded.encode(pixels))[0].permute(1, 2, 0).detach().numpy()
    error = np.clip(np.round(127.5 * (decoded + 1)), 0, 255) - np.asarray(image)
    found = example.measure_autoencoders.mean_psnr(loaded, [image], CPU)
    assert found == pytest.approx(10 * np.log10(255**2 / np.square(error).mean()), abs=1e-3)


def test_the_table_has_a_row_an_autoencoder(
    example: SimpleNamespace, images: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = example.measure_autoencoders.Options(images=images, autoencoders=(trained,), held_out=SHARE, device="cpu")
    assert example.measure_autoencoders.main(options) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert names == ["autoencoder", "PatchPCA", "PatchPCA", "PatchPCA", "first"]


def test_bad_input(example: SimpleNamespace, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make = example.train_autoencoder.Options
    with pytest.raises(ConfigError, match="crops of 40 px"):
        make(images=images, out=tmp_path, minutes=1, **{**TINY, "crop": 40})
    with pytest.raises(DataError, match="0 are held out"):
        example.split.split(images, 1e-9)
    options = make(images=tmp_path / "none", out=tmp_path, minutes=1, **TINY)
    assert reporting_errors("train_autoencoder", lambda: example.train_autoencoder.main(options)) == 2
    assert "Traceback" not in capsys.readouterr().err
