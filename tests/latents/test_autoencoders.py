"""The autoencoders of diffusers, small and untrained, behind the protocol."""

import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from anyres.errors import CheckpointError
from anyres.latents.autoencoder import Autoencoder, LatentScaling
from anyres.latents.loading import load_autoencoder
from tests.made import dc_pipeline, tiny_dc

diffusers = pytest.importorskip("diffusers")


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


@pytest.mark.parametrize("make", [tiny_dc, tiny_kl])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_compute_in_float32(make: Callable[[], Any], dtype: torch.dtype, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "whole")
    whole = load_autoencoder(str(tmp_path / "whole"))
    written = whole.save(tmp_path / "half", dtype=dtype, max_shard_size="5KB")
    shards = list((tmp_path / "half").glob("diffusion_pytorch_model-*.safetensors"))
    assert len(shards) > 1
    assert {tensor.dtype for shard in shards for tensor in load_file(shard).values()} == {dtype}
    half = load_autoencoder(str(tmp_path / "half"))
    assert half.identity.same_as(written)
    assert not half.identity.same_as(whole.identity)
    state = half.network.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    before = whole.network.state_dict()
    assert all(torch.equal(state[name], before[name].to(dtype).float()) for name in before)
    assert half.encode(torch.zeros(1, 3, 16, 16)).dtype == torch.float32
    # what is exact in 16 bits stays the same autoencoder
    assert half.save(tmp_path / "again", dtype=dtype).same_as(half.identity)


def test_an_autoencoder_tells_nobody_where_it_was_loaded_from(tmp_path: Path) -> None:
    tiny_dc().save_pretrained(tmp_path / "one")
    load_autoencoder(str(tmp_path / "one")).save(tmp_path / "two")
    assert str(tmp_path) not in (tmp_path / "two" / "config.json").read_text()


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_is_collected_after_loading_as_it_was_before(collecting: bool, tmp_path: Path) -> None:
    tiny_dc().save_pretrained(tmp_path)
    was = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        load_autoencoder(str(tmp_path))
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if was else gc.disable)()


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


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "cannot be read"),
        (lambda path: path.write_bytes(b"not weights at all"), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.unlink(), "does not exist"),
    ],
)
@pytest.mark.parametrize("size", ["5GB", "15KB"])
def test_a_damaged_file_is_named(size: str, damage: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    tiny_dc().save_pretrained(tmp_path, max_shard_size=size)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == (size == "15KB")
    damage(files[-1])
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(files[-1]))} {message}"):
        load_autoencoder(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "not an autoencoder's folder"),
        ("{}", "config.json describes a 'None'"),
        ("[1]", r"describes a '\[1\]'"),
        ("{", "not valid JSON"),
        ('{"_class_name": "AutoencoderKl"}', "did you mean 'AutoencoderKL'"),
        ('{"_class_name": "PatchPCA"}', r"model\.safetensors does not exist"),
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


def test_a_models_or_runs_or_datasets_folder_gives_the_autoencoder_inside(tmp_path: Path) -> None:
    dc_pipeline().save_pretrained(tmp_path / "run" / "model")
    inside = load_autoencoder(str(tmp_path / "run" / "model" / "autoencoder"))
    for folder in ("run", "run/model"):
        found = load_autoencoder(str(tmp_path / folder))
        assert found.identity.same_as(inside.identity)
        assert found.identity.name == str((tmp_path / folder).resolve())
        assert load_autoencoder(found.identity.name).identity == found.identity
    assert load_autoencoder("mini").identity.name == "mini"
