"""The autoencoders of diffusers, small and untrained, behind the protocol."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anyres.errors import CheckpointError
from anyres.latents.autoencoder import Autoencoder, LatentScaling
from anyres.latents.loading import load_autoencoder

diffusers = pytest.importorskip("diffusers")


def tiny_dc() -> Any:
    return diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 8, 16),
        decoder_block_out_channels=(8, 8, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        scaling_factor=0.41407,
    )


def tiny_kl() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        norm_num_groups=4,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )


@pytest.mark.parametrize(
    ("make", "channels", "px_per_cell", "scaling"),
    [
        (tiny_dc, 4, 4, LatentScaling.uniform(4, factor=0.41407)),
        (tiny_kl, 3, 2, LatentScaling.uniform(3, factor=0.3611, shift=0.1159)),
    ],
)
def test_saved_by_diffusers_loaded_here(
    make: Callable[[], Any], channels: int, px_per_cell: int, scaling: LatentScaling, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = make()
    network.save_pretrained(tmp_path / "one")
    loaded = load_autoencoder(str(tmp_path / "one"))
    assert isinstance(loaded, Autoencoder)
    assert loaded.identity.kind == type(network).__name__
    assert (loaded.identity.channels, loaded.identity.px_per_cell) == (channels, px_per_cell)
    assert loaded.scaling == scaling
    images = torch.rand(2, 3, 16, 32) * 2 - 1
    latents = loaded.encode(images)
    assert latents.shape == (2, channels, 16 // px_per_cell, 32 // px_per_cell)
    assert torch.equal(latents, loaded.encode(images)), "encoding is deterministic"
    assert loaded.decode(latents).shape == images.shape
    assert not latents.requires_grad

    loaded.save(tmp_path / "two")
    again = load_autoencoder(str(tmp_path / "two"))
    assert again.identity.same_as(loaded.identity)
    assert torch.equal(again.encode(images), latents)
    torch.manual_seed(1)
    make().save_pretrained(tmp_path / "other")
    assert not load_autoencoder(str(tmp_path / "other")).identity.same_as(loaded.identity)


def test_kl_gives_the_mean_of_the_posterior(tmp_path: Path) -> None:
    network = tiny_kl()
    network.save_pretrained(tmp_path)
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        expected = network.eval().encode(images).latent_dist.mean
    torch.testing.assert_close(load_autoencoder(str(tmp_path)).encode(images), expected)


def test_scaling_is_shift_then_factor_a_channel() -> None:
    scaling = LatentScaling(shift=(1.0, 2.0), factor=(0.5, 4.0))
    cells = torch.tensor([[3.0, 3.0], [1.0, 2.0]])
    assert scaling.to_model(cells).tolist() == [[1.0, 4.0], [0.0, 0.0]]
    assert torch.equal(scaling.from_model(scaling.to_model(cells)), cells)


def save_without(network: Any, folder: Path, *names: str) -> None:
    """Weights that lack some tensors."""
    from safetensors.torch import load_file, save_file

    network.save_pretrained(folder)
    path = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    save_file({key: value for key, value in state.items() if key not in names}, path, {"format": "pt"})


def test_missing_weights_are_not_left_to_chance(tmp_path: Path) -> None:
    save_without(tiny_kl(), tmp_path, "encoder.conv_in.weight")
    with pytest.raises(CheckpointError, match=r"encoder\.conv_in\.weight"):
        load_autoencoder(str(tmp_path))


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    tiny_kl().save_pretrained(tmp_path, safe_serialization=False)
    assert list(tmp_path.glob("*.bin"))
    with pytest.raises(CheckpointError, match="pickled weights are never read"):
        load_autoencoder(str(tmp_path))


def test_a_truncated_file(tmp_path: Path) -> None:
    tiny_kl().save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_autoencoder(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "not an autoencoder's folder"),
        ("{}", "holds a 'None'"),
        ("[1]", r"holds a '\[1\]'"),
        ("{", "not valid JSON"),
        ('{"_class_name": "AutoencoderKl"}', "did you mean 'AutoencoderKL'"),
        ('{"_class_name": "PatchPCA"}', "cannot be loaded"),
    ],
)
def test_folders_that_are_no_autoencoder(config: str | None, message: str, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=message):
        load_autoencoder(str(tmp_path))


def test_a_folder_is_remembered_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_kl().save_pretrained(tmp_path / "vae")
    monkeypatch.chdir(tmp_path)
    assert load_autoencoder("vae").identity.name == str(tmp_path / "vae")


def test_a_download_is_remembered_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch moves on; latents made with it must not."""
    import huggingface_hub

    folder = tmp_path / "snapshots" / "0123abc"
    tiny_kl().save_pretrained(folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(folder))
    identity = load_autoencoder("someone/vae", revision="main").identity
    assert (identity.name, identity.revision) == ("someone/vae", "0123abc")
