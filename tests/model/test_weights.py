import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from anyres.errors import CheckpointError, ConfigError, DataError
from anyres.grid import Grid
from anyres.model import weights
from anyres.model.config import NiTConfig, ProjectionConfig
from anyres.model.nit import NiT
from anyres.model.released import config_from_arguments, our_names
from anyres.packing.pack import PackLayout
from tests.model.helpers import random_model, small_config

GOLDEN = Path(__file__).parents[1] / "golden"


def assert_same_weights(ours: NiT, theirs: NiT) -> None:
    expected = theirs.state_dict()
    assert set(ours.state_dict()) == set(expected)
    assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())
    # to rounding: where a weight lies in memory may change the order of a sum
    torch.testing.assert_close(velocity(ours), velocity(theirs))


def velocity(model: NiT) -> torch.Tensor:
    layout = PackLayout.from_grids([Grid(3, 2)])
    tokens = torch.linspace(-1, 1, 6 * model.config.token_values).view(6, -1)
    return model(tokens, torch.tensor([0.3]), torch.tensor([1]), layout)


def test_saved_models_come_back_without_the_projector(tmp_path: Path) -> None:
    model = random_model(small_config(projection=ProjectionConfig(after_block=1, hidden=8, dim=4)))
    model.save_pretrained(tmp_path / "model")
    again = NiT.from_pretrained(tmp_path / "model")
    assert again.config == replace(model.config, projection=None)
    assert_same_weights(again, model.without_projection())
    assert not list((tmp_path / "model").glob(".*"))


def test_sharded_weights_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    model = random_model(small_config())
    whole = huggingface_hub.save_torch_state_dict
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(huggingface_hub, "save_torch_state_dict", lambda *a, **k: whole(*a, **k, max_shard_size="30KB"))
    model.save_pretrained(tmp_path)
    assert (tmp_path / weights.INDEX).is_file()
    assert not (tmp_path / weights.WEIGHTS).exists()
    assert_same_weights(NiT.from_pretrained(tmp_path), model)
    monkeypatch.undo()
    model.save_pretrained(tmp_path)  # and from shards back to one file
    assert {file.name for file in tmp_path.iterdir()} == {weights.CONFIG, weights.WEIGHTS}


def test_weights_can_be_saved_in_half_precision(tmp_path: Path) -> None:
    model = random_model(small_config())
    model.save_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in load_file(tmp_path / weights.WEIGHTS).values()} == {torch.bfloat16}
    assert model.head.linear.weight.dtype == torch.float32


@pytest.mark.parametrize("golden", ["base", "lora", "patch2"])
def test_released_checkpoints_give_column_major_positions(golden: str) -> None:
    arguments = json.loads((GOLDEN / golden / "meta.json").read_text())["network"]
    config = config_from_arguments(arguments)
    assert config.position_order == "column_major"
    row_major = replace(config, position_order="row_major", projection=None)
    model = NiT.from_released(GOLDEN / golden / "weights.safetensors", config=row_major)
    assert model.config.position_order == "column_major"
    assert model.projector is None


def test_released_weights_of_a_preset_tell_classes_and_channels(tmp_path: Path) -> None:
    """The published file layout at preset s, with made weights."""
    with torch.device("meta"):
        ours = NiT(NiTConfig.preset("s", num_classes=7, channels=4)).state_dict()
    released = {name: torch.zeros(shape) for name, shape in _released_shapes(depth=12, d=384, classes=7, c=4).items()}
    save_file(released, tmp_path / "released.safetensors")
    model = NiT.from_released(tmp_path / "released.safetensors", preset="s")
    assert model.config.num_classes == 7
    assert model.config.channels == 4
    assert set(our_names(released).values()) == set(ours)
    with pytest.raises(CheckpointError, match="another architecture"):
        NiT.from_released(tmp_path / "released.safetensors", preset="b")
    with pytest.raises(ConfigError, match="one of the two"):
        NiT.from_released(tmp_path / "released.safetensors")


def test_damaged_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    model = random_model(small_config())
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="released code"):
        NiT.from_released(tmp_path / weights.WEIGHTS, preset="s")
    data = (tmp_path / weights.WEIGHTS).read_bytes()
    (tmp_path / weights.WEIGHTS).write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        NiT.from_pretrained(tmp_path)
    (tmp_path / weights.WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        NiT.from_pretrained(tmp_path)
    config = json.loads((tmp_path / weights.CONFIG).read_text())
    (tmp_path / weights.CONFIG).write_text(json.dumps({**config, "depht": 3}))
    with pytest.raises(CheckpointError, match="did you mean 'depth'"):
        NiT.from_pretrained(tmp_path)
    (tmp_path / weights.CONFIG).write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(CheckpointError, match="version"):
        NiT.from_pretrained(tmp_path)
    (tmp_path / weights.CONFIG).unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        NiT.from_pretrained(tmp_path)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    random_model(small_config()).save_pretrained(tmp_path)
    weights.write_json(
        tmp_path / weights.CONFIG,
        {"_class_name": "NiT", "format_version": 1, **weights.to_dict(small_config(depth=3, channels=7))},
    )
    with pytest.raises(CheckpointError, match=r"blocks\.2\..* is missing"):
        NiT.from_pretrained(tmp_path)


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        random_model(small_config()).save_pretrained(tmp_path / "file" / "model")


def _released_shapes(depth: int, d: int, classes: int, c: int) -> dict[str, tuple[int, ...]]:
    linear = {"x_embedder.proj": (d, c, 1, 1), "t_embedder.mlp.0": (d, 256), "t_embedder.mlp.2": (d, d)}
    for i in range(depth):
        linear |= {
            f"blocks.{i}.adaLN_modulation.1": (6 * d, d),
            f"blocks.{i}.attn.qkv": (3 * d, d),
            f"blocks.{i}.attn.q_norm": (d // 6,),
            f"blocks.{i}.attn.k_norm": (d // 6,),
            f"blocks.{i}.attn.proj": (d, d),
            f"blocks.{i}.mlp.fc1": (4 * d, d),
            f"blocks.{i}.mlp.fc2": (d, 4 * d),
        }
    linear |= {"final_layer.adaLN_modulation.1": (2 * d, d), "final_layer.linear": (c, d)}
    shapes = {"y_embedder.embedding_table.weight": (classes + 1, d)}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes
