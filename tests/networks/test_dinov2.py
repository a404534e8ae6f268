"""DINOv2 as a feature network, small and random."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anyres import noise
from anyres.errors import BackendError, CheckpointError, ConfigError, DataError
from anyres.grid import Size
from anyres.networks.dinov2 import MEAN, SPREAD, DinoV2
from anyres.networks.features import FeatureNetwork, load_network
from tests.made import picture

transformers = pytest.importorskip("transformers")

CPU = torch.device("cpu")
PATCH = 14  # px


def save_network(folder: Path, *, hidden: int = 48, patch: int = PATCH, kind: str = "Dinov2", **options) -> Path:
    """A network of one layer whose every parameter matters."""
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=hidden,
        num_hidden_layers=1,
        num_attention_heads=3,
        patch_size=patch,
        image_size=4 * patch,
        layerscale_value=1.0,
        attn_implementation="eager",
        **options,
    )
    network = getattr(transformers, f"{kind}Model")(config)
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.copy_(0.1 * noise.normal(tuple(value.shape), "dinov2", name) + (value.ndim == 1))
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_network(tmp_path_factory.mktemp("dinov2"))


@pytest.fixture(scope="module")
def network(folder) -> DinoV2:
    return DinoV2(CPU, folder)


def images(count: int, size: Size) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.array(picture(size, i)) for i in range(count)])).permute(0, 3, 1, 2)


def grey(height: int, width: int) -> torch.Tensor:
    return torch.full((1, 3, height, width), 90, dtype=torch.uint8)


def test_it_is_a_feature_network_and_its_features_have_their_sizes(network):
    assert isinstance(network, FeatureNetwork)
    found = network(images(2, Size(40, 60)))
    assert found.pooled.shape == (2, network.dim) == (2, 48)
    assert found.spatial.shape == (2, 7 * 16 * 16)
    assert found.probabilities is None
    assert not torch.allclose(found.pooled[0], found.pooled[1], rtol=1e-3)


def test_features_are_those_of_the_librarys_own_network(network, folder):
    image = images(1, Size(224, 224))  # of its input's size: nothing is resized
    mean, spread = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, SPREAD))
    with torch.no_grad():
        own = transformers.Dinov2Model.from_pretrained(folder)(pixel_values=(image / 255 - mean) / spread)
    found = network(image)
    torch.testing.assert_close(found.pooled, own.pooler_output)
    torch.testing.assert_close(found.spatial.view(1, 256, 7), own.last_hidden_state[:, 1:, :7])


@pytest.mark.parametrize("size", [Size(300, 420), Size(50, 31), Size(500, 100)])
def test_the_input_is_pillows_bicubic_resize_of_the_whole_image_without_rounding(network, size):
    image = (images(1, size) // 128) * 255  # hard edges, which overshoot
    channels = [Image.fromarray(channel.numpy().astype(np.float32)) for channel in image[0]]
    resized = [np.asarray(channel.resize((224, 224), Image.Resampling.BICUBIC)) for channel in channels]
    seen = []
    hook = network._network.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    network(image)
    hook.remove()
    mean, spread = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, SPREAD))
    found = (seen[0][0] * spread + mean) * 255
    np.testing.assert_allclose(found.numpy(), np.stack(resized).clip(0, 255), atol=0.02)


def test_an_image_has_the_same_features_alone_and_among_others(network):
    several = images(3, Size(40, 60))
    together = network(several)
    for i in range(3):
        alone = network(several[i : i + 1])
        torch.testing.assert_close(together.pooled[i], alone.pooled[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.spatial[i], alone.spatial[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("row", "column"), [(0, 6), (4, 1)])
def test_a_spot_shows_in_the_maps_where_it_is(network, row, column):
    plain = grey(5 * PATCH, 7 * PATCH)
    spotted = plain.clone()
    spotted[..., PATCH * row : PATCH * (row + 1), PATCH * column : PATCH * (column + 1)] = 255
    change = (network.maps(spotted) - network.maps(plain)).square().sum(dim=1)[0]
    assert change.shape == (5, 7)
    assert divmod(int(change.argmax()), 7) == (row, column)


def test_maps_are_of_the_nearest_multiples_of_a_patch(network):
    expected = network.maps(grey(2 * PATCH, 3 * PATCH))
    for height, width in ((2 * PATCH + 6, 3 * PATCH - 6), (2 * PATCH - 6, 3 * PATCH + 6)):
        torch.testing.assert_close(network.maps(grey(height, width)), expected)
    assert network.maps(grey(3, 5)).shape == (1, 48, 1, 1)


@pytest.mark.parametrize("call", ["__call__", "maps"])
def test_images_that_are_not_8_bit_are_refused(network, call):
    with pytest.raises(ConfigError, match="float32"):
        getattr(network, call)(grey(28, 28).float())


@pytest.mark.parametrize(
    ("hidden", "patch", "name"),
    [
        (384, 14, "dinov2-vit-s14"),
        (384, 16, "dinov2-vit-s16"),
        (48, 14, "dinov2-vit-48-14"),
    ],
)
def test_the_name_tells_size_and_patch(tmp_path, hidden, patch, name):
    found = load_network("dinov2", CPU, save_network(tmp_path, hidden=hidden, patch=patch, mlp_ratio=1))
    assert found.name == name
    assert found.identity.startswith(f"{name} (")
    assert found.map_px == patch


def test_the_identity_follows_the_weights(network, folder, tmp_path):
    assert DinoV2(CPU, folder).identity == network.identity
    own = transformers.Dinov2Model.from_pretrained(folder)
    own.layernorm.bias.data[0] += 1e-3
    own.save_pretrained(tmp_path)
    assert DinoV2(CPU, tmp_path).identity != network.identity


def test_weights_in_half_precision_are_run_in_float32(folder, tmp_path):
    own = transformers.Dinov2Model.from_pretrained(folder)
    own.half().save_pretrained(tmp_path / "half")
    own.float().save_pretrained(tmp_path / "single")  # of equal, rounded values
    half, single = (DinoV2(CPU, tmp_path / name) for name in ("half", "single"))
    image = images(1, Size(40, 60))
    assert half(image).pooled.dtype == torch.float32
    torch.testing.assert_close(half(image).pooled, single(image).pooled)


def test_weights_that_are_pickled_are_refused(folder, tmp_path):
    own = transformers.Dinov2Model.from_pretrained(folder)
    own.config.save_pretrained(tmp_path)
    torch.save(own.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        DinoV2(CPU, tmp_path)


def test_another_network_is_refused(tmp_path):
    registers = save_network(tmp_path, kind="Dinov2WithRegisters")
    with pytest.raises(CheckpointError, match="dinov2_with_registers"):
        DinoV2(CPU, registers)


def test_weights_with_a_part_missing_are_refused(folder, tmp_path):
    own = transformers.Dinov2Model.from_pretrained(folder)
    state = {name: value for name, value in own.state_dict().items() if name != "layernorm.weight"}
    own.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(CheckpointError, match=r"lacks layernorm\.weight"):
        DinoV2(CPU, tmp_path)


def test_a_file_or_an_empty_folder_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError) as refused:
        DinoV2(CPU, folder / "model.safetensors")
    assert "folder" in refused.value.fix
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        DinoV2(CPU, tmp_path)


def test_without_the_hub_it_says_how_to_pass_the_weights(monkeypatch):
    def refuse(name, **options):
        raise OSError(f"We couldn't connect to the hub to load {name}.\nCheck your internet connection.")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(DataError, match="facebook/dinov2-large") as refused:
        load_network("dinov2", CPU)
    assert "--weights" in refused.value.fix
    assert "internet" not in refused.value.got


def test_without_the_library_it_says_what_to_install(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BackendError) as refused:
        DinoV2(CPU, folder)
    assert "pip install transformers" in refused.value.fix
