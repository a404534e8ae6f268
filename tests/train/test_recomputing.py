"""Activation checkpointing: less is kept between the passes, and every gradient stays as it is."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from anyres.cli import main
from anyres.errors import ConfigError
from anyres.grid import Grid
from anyres.model import lora
from anyres.model.config import ProjectionConfig
from anyres.model.layers import SelfAttention
from anyres.packing.pack import PackLayout, PackShape
from anyres.train.config import TeacherConfig, TrainConfig
from anyres.train.losses import draw
from anyres.train.step import backward
from tests.made import dataset
from tests.model.helpers import random_model, small_config
from tests.train.test_run import last_state
from tests.train.test_step import CONFIG, gradient, pack_of, state_with_random_weights

DEPTH = 3
DEEP = replace(CONFIG, model=small_config(patch_size=2, depth=DEPTH))
ALIGNED = replace(
    DEEP,
    model=replace(DEEP.model, projection=ProjectionConfig(after_block=2, hidden=8, dim=5)),
    teacher=TeacherConfig(weight=0.7),
)


def of_step(config: TrainConfig, recomputed: int, shape: PackShape | None = None) -> torch.Tensor:
    """The gradient of two packs, the second of them padded where a shape is given."""
    config = replace(config, recomputed_blocks=recomputed)
    state = state_with_random_weights(config)
    packs = [
        draw(pack_of([Grid(3, 4), Grid(2, 2)]), config, 0, dropout=0.0),
        draw(pack_of([Grid(5, 1), Grid(1, 6), Grid(3, 3)], shape=shape), config, 1, dropout=0.0),
    ]
    if config.teacher is not None:
        packs = [
            replace(pack, teacher=torch.linspace(-1, 1, 5).repeat(pack.layout.shape.tokens, 1).half()) for pack in packs
        ]
    backward(state, packs, config)
    return gradient(state)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [None, PackShape(40, 9, 12)], ids=["as it is", "padded"])
def test_gradients_are_the_same_bit_for_bit(precision: str, shape: PackShape | None) -> None:
    config = replace(DEEP, precision=precision)
    expected = of_step(config, 0, shape)
    assert expected.count_nonzero() > 0.9 * expected.numel()
    for recomputed in range(1, DEPTH + 1):
        assert torch.equal(of_step(config, recomputed, shape), expected)


def test_gradients_are_the_same_beside_a_teacher() -> None:
    """Bit for bit before the projected block; that one adds its branch once instead of twice, and is so to rounding."""
    expected = of_step(ALIGNED, 0)
    assert not torch.allclose(expected, of_step(replace(ALIGNED, teacher=TeacherConfig(weight=0.6)), 0))
    assert torch.equal(of_step(ALIGNED, 1), expected)
    for recomputed in (2, 3):
        torch.testing.assert_close(of_step(ALIGNED, recomputed), expected, rtol=1e-5, atol=1e-6)


def test_recomputed_blocks_keep_their_input_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    attended = []
    attend = SelfAttention.forward
    monkeypatch.setattr(SelfAttention, "forward", lambda self, *rest: (attended.append(self), attend(self, *rest))[1])
    kept, computed = [], []
    for recomputed in range(DEPTH + 1):
        attended.clear()
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            of_step(DEEP, recomputed)
        kept.append(sum(sizes))
        computed.append(len(attended))
    assert computed == [2 * (DEPTH + recomputed) for recomputed in range(DEPTH + 1)]  # of two packs
    each = [before - after for before, after in pairwise(kept)]
    assert min(each) > 0.95 * max(each)
    assert kept[-1] < 0.3 * kept[0]  # what is outside blocks: made weights, conditions, the head, the losses


def test_the_first_blocks_are_recomputed_and_the_average_keeps_nothing_anyway() -> None:
    state = state_with_random_weights(replace(DEEP, recomputed_blocks=2))
    assert [block.recomputed for block in state.model.blocks] == [True, True, False]
    assert not any(block.recomputed for block in state.average.blocks)
    state.model.recompute(0)
    assert not any(block.recomputed for block in state.model.blocks)


def test_what_is_not_there_cannot_be_recomputed() -> None:
    for number in (-1, DEPTH + 1):
        with pytest.raises(ConfigError, match=f"{number}.*wanted: 0 to 3|recomputed_blocks = {number}"):
            replace(DEEP, recomputed_blocks=number)
        with pytest.raises(ConfigError, match=f"{number} blocks to recompute"):
            state_with_random_weights(DEEP).model.recompute(number)


def test_a_run_may_go_on_with_another_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = dataset(tmp_path, multiple_of_cells=2)
    small = ["--model.depth", "3", "--model.hidden-size", "24", "--packing.budget", "64", "--pictures.every", "0"]
    command = ["train", "tutorial", "--data", data, "--device", "cpu", *small]
    for run, parts in (("whole", [(4, 0)]), ("parts", [(2, 3), (4, 1)])):
        for steps, recomputed in parts:
            options = ["--out", tmp_path / run, "--steps", steps, "--recomputed-blocks", recomputed]
            assert main([*map(str, [*command, *options])]) == 0
    whole, of_parts = last_state(tmp_path / "whole"), last_state(tmp_path / "parts")
    assert all(torch.equal(of_parts[name], value) for name, value in whole.items())
    capsys.readouterr()
    assert main([*map(str, [*command, "--out", tmp_path / "none", "--recomputed-blocks", 4])]) == 2
    assert "recomputed_blocks = 4" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_what_lora_trains_has_the_same_gradient() -> None:
    """Nothing that goes into the first block has a gradient then."""
    layout = PackLayout.from_grids([Grid(3, 4), Grid(2, 2)])
    tokens, t, labels = torch.randn(16, 6), torch.rand(2), torch.tensor([0, 1])
    found = []
    for recomputed in (0, DEPTH):
        model = random_model(small_config(depth=DEPTH))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            lora.attach(model, 2)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        assert 0 < len(trained) < len(list(model.parameters()))
        with torch.no_grad():
            for weight in trained:
                weight.fill_(0.1)
        model.recompute(recomputed)
        model(tokens, t, labels, layout).square().sum().backward()
        found.append([weight.grad for weight in trained])
    assert all(one is not None and torch.equal(one, other) for one, other in zip(*found, strict=True))
