"""PatchPCA is the linear map that it claims to be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyres.errors import ConfigError, DataError
from anyres.grid import Size
from anyres.latents.loading import load_autoencoder
from anyres.latents.patch_pca import PatchPCA
from tests.made import picture


def tensors(count: int = 8, first: int = 0) -> list[torch.Tensor]:
    made = [np.array(picture(Size(64 + 8 * (i % 3), 96), first + i)) for i in range(count)]
    return [torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1 for image in made]


@pytest.fixture(scope="module")
def fitted() -> PatchPCA:
    return PatchPCA.fit(tensors())


@given(high=st.integers(1, 5), wide=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_encoding_inverts_decoding(fitted: PatchPCA, high: int, wide: int, seed: int) -> None:
    latents = torch.randn(2, 32, high, wide, generator=torch.Generator().manual_seed(seed))
    images = fitted.decode(latents)
    assert images.shape == (2, 3, 8 * high, 8 * wide)
    torch.testing.assert_close(fitted.encode(images), latents, rtol=1e-4, atol=1e-4)


def test_cells_are_where_their_px_are(fitted: PatchPCA) -> None:
    image = tensors(1)[0][None]
    whole = fitted.encode(image)
    assert whole.shape == (1, 32, 8, 12)
    torch.testing.assert_close(fitted.encode(image[..., 16:24, 40:48])[0, :, 0, 0], whole[0, :, 2, 5])


def test_all_directions_lose_nothing() -> None:
    every = PatchPCA.fit(tensors(), patch=4, channels=48)
    image = tensors(1, first=50)[0][None]
    torch.testing.assert_close(every.decode(every.encode(image)), image, rtol=1e-4, atol=1e-4)


def test_no_other_subspace_of_that_size_keeps_more(fitted: PatchPCA) -> None:
    """Principal directions minimise the squared error over the images that they were fitted to."""
    images = [image[None] for image in tensors()]

    def lost(map_: PatchPCA) -> float:
        return sum(float((map_.decode(map_.encode(image)) - image).square().sum()) for image in images)

    rotated, _ = torch.linalg.qr(
        fitted.basis.T + 0.02 * torch.randn(192, 32, generator=torch.Generator().manual_seed(0))
    )
    assert lost(fitted) < lost(PatchPCA(rotated.T.contiguous(), fitted.mean, fitted.spread))


def test_scaling_is_of_unit_variance_and_keeps_coarse_channels_louder(fitted: PatchPCA) -> None:
    cells = torch.cat([fitted.encode(image[None])[0].flatten(1).T for image in tensors()])
    scaled = fitted.scaling.to_model(cells)
    variances = scaled.var(dim=0, correction=0)
    assert float(variances.mean()) == pytest.approx(1, rel=1e-3)
    assert float(variances[0]) > float(variances[5]) > float(variances[-1])
    # half whitened: the scaled variance is proportional to the standard deviation
    ratio = variances / cells.std(dim=0, correction=0)
    torch.testing.assert_close(ratio, ratio.mean().expand(32), rtol=1e-2, atol=0)
    torch.testing.assert_close(fitted.scaling.from_model(scaled), cells, rtol=1e-4, atol=1e-4)


def test_refits_agree_with_their_signs(fitted: PatchPCA) -> None:
    again = PatchPCA.fit(iter(tensors()))
    assert torch.equal(again.basis, fitted.basis)
    # flipping every image's contrast leaves the covariance, so the directions, and the signs are fixed
    negative = PatchPCA.fit([-image for image in tensors()])
    torch.testing.assert_close(negative.basis, fitted.basis, rtol=1e-3, atol=1e-3)


def test_saving_and_loading(fitted: PatchPCA, tmp_path) -> None:
    fitted.save(tmp_path / "map")
    loaded = load_autoencoder(str(tmp_path / "map"))
    assert loaded.identity.same_as(fitted.identity)
    assert loaded.scaling == fitted.scaling
    image = tensors(1)[0][None]
    assert torch.equal(loaded.encode(image), fitted.encode(image))
    assert not PatchPCA.fit(tensors(first=9)).identity.same_as(fitted.identity)


def test_rounded_to_16_bits_it_is_another_and_stays_it(fitted: PatchPCA, tmp_path) -> None:
    written = fitted.save(tmp_path / "half", dtype=torch.float16, max_shard_size="10KB")
    half = load_autoencoder(str(tmp_path / "half"))
    assert half.identity.same_as(written)
    assert not half.identity.same_as(fitted.identity)
    assert isinstance(half, PatchPCA)
    assert torch.equal(half.basis, fitted.basis.half().float())
    assert half.save(tmp_path / "again", dtype=torch.float16).same_as(half.identity)


def test_large_images_are_sampled_and_equal_fits_stay_equal() -> None:
    large = torch.from_numpy(np.array(picture(Size(640, 640), 0))).permute(2, 0, 1).float() / 127.5 - 1
    assert torch.equal(PatchPCA.fit([large]).basis, PatchPCA.fit([large]).basis)


def test_what_cannot_be_fitted() -> None:
    with pytest.raises(DataError, match="got 64 patches"):
        PatchPCA.fit([torch.zeros(3, 64, 64)])
    with pytest.raises(ConfigError, match="1 to 12"):
        PatchPCA.fit(tensors(), patch=2, channels=13)
