"""FID's network under random weights: its graph, its input, and which weights it takes."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from anyres import noise
from anyres.errors import CheckpointError, ConfigError, DataError
from anyres.networks import inception
from anyres.networks.features import FeatureNetwork, Features, load_network
from anyres.networks.inception import FidInception, Inception, resize_like_tensorflow

CPU = torch.device("cpu")
FILE = "pt_inception-2015-12-05-6726825d.pth"

State = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False, kw_only=True)
class Pass:
    """One pass of the network, which many tests look at: it takes its time on a CPU."""

    image: torch.Tensor
    input: torch.Tensor
    features: Features


def random_weights() -> State:
    """As large as keeps a signal alive to the last layer, and the same everywhere."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in Inception().state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        if name.endswith("conv.weight"):
            state[name] = noise.normal(shape, "inception", name) * math.sqrt(2 / math.prod(shape[1:]))
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = 0.75 + 0.5 * noise.uniform(shape, "inception", name)
        elif not name.endswith("num_batches_tracked"):  # which the published file need not have
            state[name] = 0.1 * noise.normal(shape, "inception", name)
    return state


@pytest.fixture(scope="module")
def state() -> State:
    return random_weights()


@pytest.fixture(scope="module")
def file(state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def network(file) -> FidInception:
    return FidInception(CPU, file)


@pytest.fixture(scope="module")
def one(network) -> Pass:
    image = pattern(120, 200)
    inputs = []
    hook = network._network.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, given_inputs: inputs.extend(given_inputs))
    features = network(image)
    hook.remove()
    return Pass(image=image, input=inputs[0], features=features)


@pytest.fixture(scope="module")
def hollow(state) -> State:
    """The same shapes in a file of a few bytes."""
    return {name: torch.zeros(()).expand(value.shape) for name, value in state.items()}


def pattern(height: int, width: int) -> torch.Tensor:
    """A picture that arithmetic alone defines."""
    channel, row, column = torch.meshgrid(torch.arange(3), torch.arange(height), torch.arange(width), indexing="ij")
    return ((7 * row + 5 * column + 50 * channel + row * column // 16) % 256).to(torch.uint8)[None]


def noisy(count: int, height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(noise.generator("noisy").integers(0, 256, (count, 3, height, width), dtype=np.uint8))


def test_names_and_shapes_are_those_of_the_conversion(state):
    assert len(state) == 472
    assert sum(value.numel() for value in state.values()) == 23_885_392
    shapes = {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_4a_3x3.bn.running_mean": (192,),
        "Mixed_5b.branch1x1.conv.weight": (64, 192, 1, 1),
        "Mixed_5d.branch_pool.conv.weight": (64, 288, 1, 1),
        "Mixed_6a.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
        "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
        "Mixed_6e.branch7x7dbl_2.conv.weight": (192, 192, 7, 1),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "fc.weight": (1008, 2048),
        "fc.bias": (1008,),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def test_it_is_a_feature_network_and_its_features_have_their_sizes(network, one):
    assert isinstance(network, FeatureNetwork)
    assert one.features.pooled.shape == (1, network.dim) == (1, 2048)
    assert one.features.spatial.shape == (1, 2023)
    assert one.features.probabilities.shape == (1, 1008)
    torch.testing.assert_close(one.features.probabilities.sum(dim=1), torch.ones(1))


@pytest.mark.parity
def test_features_are_those_of_other_implementations_under_these_weights(one):
    """pytorch-fid 0.3.0 for places, torch-fidelity 0.4.0 for the rest, its logits without the bias."""
    largest = {
        "pooled": {1973: 8.45779, 1443: 6.07996, 947: 6.04263, 1975: 5.7341, 1095: 5.43046},
        "spatial": {217: 2.53998, 927: 2.41515, 931: 2.31282, 234: 2.31139, 57: 2.26701},
        "probabilities": {739: 0.52655, 579: 0.446398, 402: 0.0206238, 498: 0.0010674, 449: 0.00104676},
    }
    for name, expected in largest.items():
        values, places = getattr(one.features, name)[0].topk(5)
        assert dict(zip(places.tolist(), values.tolist(), strict=True)) == pytest.approx(expected, rel=1e-3), name


def test_an_image_has_the_same_features_alone_and_among_others(network, one):
    together = network(torch.cat([noisy(1, 120, 200), one.image]))
    for name in ("pooled", "spatial", "probabilities"):
        other, found = getattr(together, name)
        torch.testing.assert_close(found, getattr(one.features, name)[0], rtol=1e-3, atol=1e-4, msg=name)
        assert (other - found).norm() > 0.03 * found.norm()


@settings(max_examples=25)
@given(height=st.integers(1, 12), width=st.integers(1, 12), side=st.integers(1, 14))
def test_the_resize_is_its_definition(height, width, side):
    image = np.random.default_rng(height * 13 + width).uniform(0, 255, (height, width))
    expected = np.zeros((side, side))
    for row in range(side):
        for column in range(side):
            y, x = row * height / side, column * width / side
            top, left = math.floor(y + 1e-6), math.floor(x + 1e-6)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            dy, dx = y - top, x - left
            expected[row, column] = (1 - dy) * ((1 - dx) * image[top, left] + dx * image[top, right]) + dy * (
                (1 - dx) * image[bottom, left] + dx * image[bottom, right]
            )
    given_image = torch.from_numpy(image.astype(np.float32)).expand(1, 3, -1, -1)
    found = resize_like_tensorflow(given_image, side)
    np.testing.assert_allclose(found[0, 1].numpy(), expected, atol=2e-3)


def test_the_resize_leaves_an_image_of_the_inputs_size_as_it_is():
    image = noisy(1, 299, 299).float()
    assert torch.equal(resize_like_tensorflow(image, 299), image)


def test_the_input_is_the_resized_image_from_minus_one_to_one(one):
    torch.testing.assert_close(one.input * 128 + 128, resize_like_tensorflow(one.image.float(), 299))
    assert -1 <= one.input.min() < -0.9
    assert 0.9 < one.input.max() < 1


def test_positions_of_maps_lie_alike_from_both_ends_of_an_image(network):
    """Under symmetric kernels a mirrored image, 43 + 16 k px a side, has mirrored maps: position i is at 16 i + 21."""
    symmetric = copy.deepcopy(network)
    for layer in symmetric._network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.copy_((layer.weight + layer.weight.flip(2, 3)) / 2)
    image = noisy(1, 43 + 2 * 16, 43 + 5 * 16)
    maps, mirrored = symmetric.maps(image), symmetric.maps(image.flip(2, 3))
    assert maps.shape == (1, 768, 3, 6)
    torch.testing.assert_close(mirrored.flip(2, 3), maps, rtol=1e-3, atol=1e-4)
    assert (mirrored - maps).norm() > 0.01 * maps.norm()


def test_the_smallest_image_with_a_map_has_one_position_and_a_smaller_one_is_refused(network):
    assert network.maps(pattern(43, 60)).shape == (1, 768, 1, 2)
    with pytest.raises(ConfigError, match="60x42 px"):
        network.maps(pattern(42, 60))


@pytest.mark.parametrize("call", ["__call__", "maps"])
def test_images_that_are_not_8_bit_are_refused(network, call):
    with pytest.raises(ConfigError, match="float32"):
        getattr(network, call)(pattern(60, 60).float())


def test_both_kinds_of_file_give_equal_features_and_one_identity(network, one, state, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    other = load_network("inception", CPU, path)
    assert other.identity == network.identity
    torch.testing.assert_close(other(one.image).pooled, one.features.pooled)


def test_the_identity_follows_the_weights_and_not_the_counters(hollow, tmp_path):
    counters = {
        name.replace("running_var", "num_batches_tracked"): torch.tensor(7)
        for name in hollow
        if name.endswith("running_var")
    }
    identities = []
    for number, changed in enumerate(({}, counters, {"fc.bias": torch.full((1008,), 1e-3)})):
        torch.save({**hollow, **changed}, tmp_path / f"{number}.pth")
        identities.append(FidInception(CPU, tmp_path / f"{number}.pth").identity)
    assert identities[0] == identities[1] != identities[2]


WRONG: dict[str, tuple[Callable[[State], object], str]] = {
    "one is missing": (lambda s: {k: v for k, v in s.items() if k != "fc.weight"}, "fc.weight is missing"),
    "the classes of today": (lambda s: {**s, "fc.bias": torch.zeros(1000)}, r"fc.bias is \(1000,\), not \(1008,\)"),
    "one too many": (lambda s: {**s, "AuxLogits.fc.bias": torch.zeros(9)}, "AuxLogits.fc.bias is not part"),
    "inside another": (lambda s: {"state_dict": s, "step": 3}, "holds no weights"),
    "no dictionary": (lambda s: [1.0], "holds no weights"),
    "pickled code": (lambda s: {"fc.weight": Path}, "cannot be read"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_other_weights_are_refused(hollow, tmp_path, kind):
    change, message = WRONG[kind]
    torch.save(change(hollow), tmp_path / "wrong.pth")
    with pytest.raises(CheckpointError, match=message) as refused:
        FidInception(CPU, tmp_path / "wrong.pth")
    assert "https://" in refused.value.fix


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors", "damaged.pth", "damaged.safetensors"])
def test_absent_and_damaged_files_are_refused(tmp_path, name):
    if name.startswith("damaged"):
        (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(CheckpointError, match=name):
        FidInception(CPU, tmp_path / name)


def test_weights_are_downloaded_once_and_checked(monkeypatch, hollow, tmp_path):
    asked = []

    def download(url, path, hash_prefix, progress):
        asked.append((url.rsplit("/", 1)[1], hash_prefix))
        torch.save(hollow, path)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    first, second = (load_network("inception", CPU) for _ in range(2))
    assert first.identity == second.identity
    assert asked == [(FILE, "6726825d")]
    assert (tmp_path / "hub" / "checkpoints" / FILE).is_file()


@pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("invalid hash value"), TimeoutError()])
def test_without_a_network_it_says_how_to_pass_the_weights(monkeypatch, tmp_path, error):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(DataError, match="cannot be downloaded") as refused:
        load_network("inception", CPU)
    assert "--weights" in refused.value.fix
    assert inception.URL in refused.value.wanted
