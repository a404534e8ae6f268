import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from anyres.config import to_dict
from anyres.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from anyres.files import write_json
from anyres.grid import Grid
from anyres.model.config import NiTConfig, ProjectionConfig
from anyres.model.nit import NiT
from anyres.model.released import config_from_arguments, our_names
from anyres.packing.pack import PackLayout
from tests.model.helpers import random_model, small_config

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


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


def test_sharded_weights_come_back(tmp_path: Path) -> None:
    model = random_model(small_config())
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 3
    assert all(shard.stat().st_size < 70_000 for shard in shards)
    assert {file.name for file in tmp_path.iterdir()} == {CONFIG, INDEX, *(shard.name for shard in shards)}
    assert_same_weights(NiT.from_pretrained(tmp_path), model)


def test_saving_again_leaves_no_shard_of_before_and_nothing_else_is_touched(tmp_path: Path) -> None:
    model = random_model(small_config())
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    (tmp_path / "model_ema.safetensors").write_bytes(b"mine")
    model.save_pretrained(tmp_path, max_shard_size=150_000)
    named = set(json.loads((tmp_path / INDEX).read_text())["weight_map"].values())
    assert len(named) > 1
    assert {file.name for file in tmp_path.glob("model-*")} == named
    assert_same_weights(NiT.from_pretrained(tmp_path), model)
    model.save_pretrained(tmp_path)  # and from shards back to one file
    assert {file.name for file in tmp_path.iterdir()} == {CONFIG, WEIGHTS, "model_ema.safetensors"}


def test_others_may_read_what_the_user_lets_them(tmp_path: Path) -> None:
    random_model(small_config()).save_pretrained(tmp_path, max_shard_size="60KB")
    (tmp_path / "new").touch()
    assert {stat.filemode(path.stat().st_mode) for path in tmp_path.iterdir()} == {
        stat.filemode((tmp_path / "new").stat().st_mode)
    }


def test_weights_can_be_saved_in_half_precision(tmp_path: Path) -> None:
    model = random_model(small_config())
    model.save_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in load_file(tmp_path / WEIGHTS).values()} == {torch.bfloat16}
    assert model.head.linear.weight.dtype == torch.float32


@pytest.mark.parametrize("size", ["15 apples", "", "MB"])
def test_a_shard_size_that_is_none_is_refused(tmp_path: Path, size: str) -> None:
    with pytest.raises(ConfigError, match="shard size"):
        random_model(small_config()).save_pretrained(tmp_path, max_shard_size=size)
    assert list(tmp_path.iterdir()) == []


def test_a_dtype_that_cannot_hold_the_weights_is_refused(tmp_path: Path) -> None:
    model = random_model(small_config())
    with pytest.raises(ConfigError, match="floating-point"):
        model.save_pretrained(tmp_path, dtype=torch.int8)
    with torch.no_grad():
        model.head.linear.bias[0] = -70_000.0
    with pytest.raises(NonFiniteError, match=r"head\.linear\.bias reaches 7e\+04"):
        model.save_pretrained(tmp_path, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []
    model.save_pretrained(tmp_path, dtype=torch.bfloat16)
    assert NiT.from_pretrained(tmp_path).head.linear.bias[0] == torch.tensor(-70_000.0).bfloat16()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "which file holds which weight"),
        ('{"metadata": {}}', "which file holds which weight"),
        ('{"weight_map": ["model-00001-of-00002.safetensors"]}', "which file holds which weight"),
        ('{"weight_map": {"head.linear.bias": 1}}', "which file holds which weight"),
        ('{"weight_map": {"head.linear.bias": "model-1.safetensors"}}', r"model-1\.safetensors does not exist"),
        ('{"weight_map": {}}', "is missing"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, index: str, message: str) -> None:
    random_model(small_config()).save_pretrained(tmp_path, max_shard_size="100KB")
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(CheckpointError, match=message):
        NiT.from_pretrained(tmp_path)


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
        NiT.from_released(tmp_path / WEIGHTS, preset="s")
    data = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        NiT.from_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        NiT.from_pretrained(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**config, "depht": 3}))
    with pytest.raises(CheckpointError, match="did you mean 'depth'"):
        NiT.from_pretrained(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(CheckpointError, match="version"):
        NiT.from_pretrained(tmp_path)
    (tmp_path / CONFIG).unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        NiT.from_pretrained(tmp_path)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    random_model(small_config()).save_pretrained(tmp_path)
    write_json(
        tmp_path / CONFIG,
        {"_class_name": "NiT", "format_version": 1, **to_dict(small_config(depth=3, channels=7))},
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
