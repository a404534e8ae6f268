"""A step: its gradient, its independence of packing, and what it does where numbers are not finite."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from anyres.errors import BackendError, ConfigError
from anyres.flow.time import TimeConfig, TimeShift
from anyres.grid import Grid
from anyres.model.config import ProjectionConfig
from anyres.packing.pack import Pack, PackLayout, PackShape
from anyres.packing.plan import PackingConfig
from anyres.train.config import OptimizerConfig, TeacherConfig, TrainConfig
from anyres.train.graphs import records
from anyres.train.losses import DrawnPack, draw
from anyres.train.state import TrainState
from anyres.train.step import backward, update
from tests.model.helpers import random_model, small_config

CPU = torch.device("cpu")
CONFIG = TrainConfig(model=small_config(patch_size=2), packing=PackingConfig(budget=64), steps=10)


def pack_of(grids: list[Grid], seed: int = 0, shape: PackShape | None = None) -> Pack:
    generator = torch.Generator().manual_seed(seed)
    layout = PackLayout.from_grids(grids, shape)
    latents = torch.zeros(layout.shape.tokens, CONFIG.model.token_values)
    latents[: layout.tokens] = torch.randn(layout.tokens, CONFIG.model.token_values, generator=generator)
    labels = torch.zeros(layout.shape.images, dtype=torch.int64)
    labels[: len(grids)] = torch.arange(len(grids)) % CONFIG.model.num_classes
    indices, flipped = tuple(range(len(grids))), (False,) * len(grids)
    return Pack(layout=layout, latents=latents, labels=labels, indices=indices, flipped=flipped)


def state_with_random_weights(config: TrainConfig = CONFIG) -> TrainState:
    state = TrainState.create(config, CPU)
    state.model.load_state_dict(random_model(config.model).state_dict())
    return state


def gradient(state: TrainState) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in state.model.parameters() if parameter.grad is not None])


def cut(whole: DrawnPack, *ends: int) -> list[DrawnPack]:
    """A drawn pack as several: of its first images up to each end."""
    parts, token = [], 0
    for first, last in pairwise((0, *ends)):
        layout = PackLayout.from_grids(whole.layout.grids[first:last])
        span = slice(token, token + layout.tokens)
        token += layout.tokens
        parts.append(
            DrawnPack(
                layout=layout,
                latents=whole.latents[span],
                noise=whole.noise[span],
                t=whole.t[first:last],
                labels=whole.labels[first:last],
                real=whole.real[span],
            )
        )
    return parts


@pytest.mark.parametrize("power", [1.0, 0.5, 0.0])
def test_the_gradient_of_a_step_does_not_depend_on_how_images_are_packed(power: float) -> None:
    """One pack, or two of unequal length accumulated: the global sum over the global weight."""
    config = replace(CONFIG, loss_tokens_power=power)
    whole = draw(pack_of([Grid(3, 4), Grid(2, 2), Grid(5, 1), Grid(1, 6)]), config, 0, dropout=0.3)
    state = state_with_random_weights()
    together = backward(state, [whole], config)
    expected = gradient(state)
    apart = backward(state, cut(whole, 1, 4), config)
    torch.testing.assert_close(gradient(state), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(apart.total, together.total)


@pytest.mark.parametrize("power", [1.0, 0.3, 0.0])
def test_an_image_counts_by_its_tokens_to_the_power_and_the_parts_stay_means_over_tokens(power: float) -> None:
    """Against the definition: each image's own mean loss, alone, in a padded pack of a teacher's features, too."""
    projection = ProjectionConfig(after_block=1, hidden=8, dim=5)
    config = replace(
        CONFIG,
        model=replace(CONFIG.model, projection=projection),
        teacher=TeacherConfig(weight=0.7),
        direction_weight=0.4,
    )
    grids = [Grid(3, 4), Grid(1, 1), Grid(5, 1)]
    lengths = torch.tensor([float(grid.tokens) for grid in grids])
    drawn = draw(pack_of(grids), config, 0, dropout=0)
    features = torch.randn(18, 5, generator=torch.Generator().manual_seed(5))
    state = state_with_random_weights(config)
    alone = []
    for part, seen in zip(cut(drawn, 1, 2, 3), features.split(lengths.int().tolist()), strict=True):
        alone.append(backward(state, [replace(part, teacher=seen)], config))
    padded = draw(pack_of(grids, shape=PackShape(40, 8, 12)), config, 0, dropout=0)
    teacher = torch.nn.functional.pad(features, (0, 0, 0, 22))
    found = backward(state, [replace(padded, teacher=teacher)], replace(config, loss_tokens_power=power))
    for name, weights in (("total", lengths**power), ("flow", lengths), ("direction", lengths), ("alignment", lengths)):
        of_images = torch.stack([getattr(loss, name) for loss in alone])
        torch.testing.assert_close(getattr(found, name), (weights * of_images).sum() / weights.sum())
    by_token = found.flow + 0.4 * found.direction + 0.7 * found.alignment
    assert (abs(float(found.total - by_token)) < 1e-5) == (power == 1)


def test_a_loss_weighed_otherwise_than_by_token_or_image_is_refused() -> None:
    for power in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="loss_tokens_power"):
            replace(CONFIG, loss_tokens_power=power)


def test_padding_changes_neither_loss_nor_gradient() -> None:
    grids = [Grid(3, 4), Grid(2, 2)]
    state = state_with_random_weights()
    plain = backward(state, [draw(pack_of(grids), CONFIG, 0, dropout=0.1)], CONFIG)
    expected = gradient(state)
    padded_pack = pack_of(grids, shape=PackShape(40, 7, 12))
    padded = backward(state, [draw(padded_pack, CONFIG, 0, dropout=0.1)], CONFIG)
    torch.testing.assert_close(padded.total, plain.total)
    torch.testing.assert_close(gradient(state), expected, rtol=1e-4, atol=1e-6)


def test_draws_follow_from_their_address_alone() -> None:
    pack = pack_of([Grid(3, 4)] * 40)
    first, again, other = (draw(pack, CONFIG, 0, step, dropout=0.5) for step in (7, 7, 8))
    for name in ("t", "noise", "labels"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))
    dropped = (first.labels == CONFIG.model.null_label).float().mean()
    assert 0.2 < dropped < 0.8
    assert torch.equal(draw(pack, CONFIG, 0, 7, dropout=0.0).labels, pack.labels)


def test_times_move_with_each_images_own_tokens() -> None:
    grids, shift = [Grid(3, 4), Grid(1, 1), Grid(5, 5)], TimeShift(power=0.5, base=4)
    pack = pack_of(grids, shape=PackShape(60, 9, 25))
    plain, moved = (
        draw(pack, config, 0, dropout=0) for config in (CONFIG, replace(CONFIG, time=TimeConfig(shift=shift)))
    )
    for row, grid in enumerate(grids):
        t, s = float(plain.t[row]), (grid.tokens / 4) ** 0.5
        assert float(moved.t[row]) == pytest.approx(s * t / (1 + (s - 1) * t))
    assert moved.t[3:].tolist() == plain.t[3:].tolist() == [0.5] * 6
    assert torch.equal(moved.noise, plain.noise)


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    state = state_with_random_weights()
    drawn = draw(pack_of([Grid(3, 4)]), CONFIG, 0, dropout=0.0)
    update(state, backward(state, [drawn], CONFIG), CONFIG)  # moments are there
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    average = {name: value.clone() for name, value in state.average.state_dict().items()}
    moments = {k: v.clone() for k, v in state.optimizer.state[state.model.head.linear.weight].items()}
    drawn.latents[0, 0] = float("nan")
    outcome = update(state, backward(state, [drawn], CONFIG), CONFIG)
    assert float(outcome.finite) == 0
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, before[name])
    for name, value in state.average.state_dict().items():
        assert torch.equal(value, average[name])
    for name, value in state.optimizer.state[state.model.head.linear.weight].items():
        assert torch.equal(value, moments[name])


def test_the_gradient_is_clipped_and_the_rate_warms_up() -> None:
    config = replace(CONFIG, optimizer=OptimizerConfig(clip=1e-3, warmup_steps=4, learning_rate=0.1))
    state = state_with_random_weights(config)
    outcome = update(state, backward(state, [draw(pack_of([Grid(3, 4)]), config, 0, dropout=0)], config), config)
    assert float(outcome.gradient_norm) > 1e-3  # reported as it was
    assert float(gradient(state).norm()) == pytest.approx(1e-3, rel=1e-3)
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 4)


def test_bfloat16_is_near_float32() -> None:
    state = state_with_random_weights()
    drawn = draw(pack_of([Grid(3, 4), Grid(6, 2)]), CONFIG, 0, dropout=0)
    exact = backward(state, [drawn], CONFIG)
    half = backward(state, [drawn], replace(CONFIG, precision="bfloat16"))
    assert float(half.total) == pytest.approx(float(exact.total), rel=2e-2)
    assert float(half.total) != float(exact.total)


def test_initial_weights_follow_from_the_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        return TrainState.create(replace(CONFIG, seed=seed), CPU).model.patch_embedding.weight

    ambient = torch.random.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.random.get_rng_state(), ambient)


def test_the_loss_falls_on_one_pack() -> None:
    config = replace(CONFIG, optimizer=OptimizerConfig(learning_rate=3e-3))
    state = TrainState.create(config, CPU)
    drawn = draw(pack_of([Grid(3, 4), Grid(2, 5)]), config, 0, dropout=0)
    losses = []
    for _ in range(60):
        loss = backward(state, [drawn], config)
        update(state, loss, config)
        losses.append(float(loss.total))
    assert losses[-1] < 0.3 * losses[0]


def test_a_cpu_does_not_record_and_says_so_where_it_is_asked_to() -> None:
    assert not records(CONFIG, CPU)
    assert not records(replace(CONFIG, cuda_graph="off"), CPU)
    with pytest.raises(BackendError, match="this run is on cpu") as refused:
        records(replace(CONFIG, cuda_graph="on"), CPU)
    assert "--cuda-graph" in refused.value.fix
