"""Alignment with a teacher: the features that packs carry, what the term does, and when it ends."""

import json
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from anyres.cli import main
from anyres.config import from_dict
from anyres.errors import CheckpointError, ConfigError, DataError
from anyres.files import read_json
from anyres.grid import Grid
from anyres.latents.format import LatentDataset
from anyres.model.config import ProjectionConfig
from anyres.packing.dealing import Share
from anyres.packing.loader import PackLoader, Position
from anyres.packing.pack import PackShape
from anyres.packing.plan import PackingConfig
from anyres.train.config import TeacherConfig, TrainConfig
from anyres.train.held_out import held_out_loss
from anyres.train.loop import drawn_packs, loaders, train
from anyres.train.losses import DrawnPack, draw, pack_loss
from anyres.train.state import TrainState
from anyres.train.step import backward, update
from tests.made import MeanColours, dataset
from tests.train.test_run import last_state, losses, settings
from tests.train.test_step import CONFIG, CPU, gradient, pack_of, state_with_random_weights

FEATURES = 3


def aligned(config: TrainConfig, **teacher) -> TrainConfig:
    projection = ProjectionConfig(after_block=1, hidden=16, dim=FEATURES)
    return replace(config, model=replace(config.model, projection=projection), teacher=TeacherConfig(**teacher))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("taught"), teacher=MeanColours(), multiple_of_cells=2)


def taught_pack(grids: list[Grid], config: TrainConfig, shape: PackShape | None = None) -> DrawnPack:
    drawn = draw(pack_of(grids, shape=shape), config, 0, dropout=0.0)
    features = torch.randn(sum(grid.tokens for grid in grids), FEATURES, generator=torch.Generator().manual_seed(5))
    padding = drawn.layout.shape.tokens - len(features)
    return replace(drawn, teacher=torch.nn.functional.pad(features, (0, 0, 0, padding)).half())


@pytest.mark.parametrize("oversize", ["error", "shrink"])
def test_a_packs_features_are_those_of_its_tokens(data: Path, oversize: str) -> None:
    """Features and latents of a token stand for the same square, in either flip, also where images are shrunk."""
    opened = LatentDataset.open(data)
    packing = PackingConfig(budget=12 if oversize == "error" else 3, oversize=oversize)
    rows = np.arange(len(opened))
    loader = PackLoader(opened, rows=rows, patch=2, packing=packing, seed=0, features=opened.features())
    basis = opened.autoencoder().to(CPU)
    alone = [loader.pack(0, number) for number in range(loader.packs_in(0))]
    # images of a step's packs are exchanged
    share = Share(packs_per_step=len(alone), cost=np.square)
    with closing(loader.stream(Position(epoch=0, pack=0), lambda pack, _: pack, share=share)) as stream:
        dealt = list(islice(stream, len(alone)))
    if oversize == "error":
        assert [pack.indices for pack in dealt] != [pack.indices for pack in alone]
    for packs in (alone, dealt):
        assert {flipped for pack in packs for flipped in pack.flipped} == {False, True}
        for pack in packs:
            cells = opened.scaling.from_model(pack.latents.unflatten(1, (-1, 4)).transpose(1, 2)).flatten(0, 1)
            colours = basis.decode(cells[:, :, None, None]).mean(dim=(2, 3)).unflatten(0, (-1, 4)).mean(dim=1)
            colours = 127.5 * colours - 0.5
            features = loader.features(pack)
            assert features.shape == (pack.layout.tokens, FEATURES)
            alike = torch.nn.functional.cosine_similarity(features.float(), colours, dim=1)
            # a shrunk image's are means of directions
            assert alike[colours.norm(dim=1) > 30].min() > (0.97 if oversize == "error" else 0.8)
    assert bool(loader.shrunk) == (oversize == "shrink")


def test_features_of_a_padded_pack_are_padded(data: Path) -> None:
    opened = LatentDataset.open(data)
    packing, rows = PackingConfig(budget=12), np.arange(len(opened))
    plain, padded = (
        PackLoader(opened, rows=rows, patch=2, packing=packing, seed=0, one_shape=one_shape, features=opened.features())
        for one_shape in (False, True)
    )
    one, other = plain.features(plain.pack(0, 0)), padded.features(padded.pack(0, 0))
    assert len(other) > len(one)
    assert torch.equal(other[: len(one)], one)
    assert not other[len(one) :].any()


def test_the_term_is_one_minus_the_cosine_of_projection_and_feature() -> None:
    config = aligned(CONFIG, weight=0.7)
    state, pack = state_with_random_weights(config), taught_pack([Grid(3, 4), Grid(2, 2)], config)
    with_teacher = pack_loss(state.model, pack, config)
    without = pack_loss(state.model, replace(pack, teacher=None), config)
    assert pack.teacher is not None
    x = (1 - pack.t[pack.layout.image_index, None]) * pack.latents + pack.t[pack.layout.image_index, None] * pack.noise
    projected = state.model(x, pack.t, pack.labels, pack.layout, projection=True).projection
    unit = [torch.nn.functional.normalize(values.float(), dim=1) for values in (projected, pack.teacher)]
    expected = (1 - (unit[0] * unit[1]).sum(dim=1)).sum()
    torch.testing.assert_close(with_teacher.alignment, expected)
    torch.testing.assert_close(with_teacher.total, without.total + 0.7 * expected)
    torch.testing.assert_close(with_teacher.flow, without.flow)
    assert float(without.alignment) == 0


def test_8_bits_give_the_same_loss() -> None:
    config = aligned(CONFIG)
    state, pack = state_with_random_weights(config), taught_pack([Grid(3, 4), Grid(2, 2)], config)
    assert pack.teacher is not None
    small = pack.teacher / pack.teacher.abs().amax(dim=1, keepdim=True)
    small = replace(pack, teacher=(127 * small).round().to(torch.int8))
    full, short = (pack_loss(state.model, one, config).alignment for one in (pack, small))
    torch.testing.assert_close(short, full, rtol=1e-3, atol=1e-3)
    assert not torch.equal(short, full)


def test_padding_shows_in_neither_loss_nor_gradient() -> None:
    config, grids = aligned(CONFIG), [Grid(3, 4), Grid(2, 2)]
    state = state_with_random_weights(config)
    plain = backward(state, [taught_pack(grids, config)], config)
    expected = gradient(state)
    padded = backward(state, [taught_pack(grids, config, PackShape(40, 7, 12))], config)
    torch.testing.assert_close(padded.alignment, plain.alignment)
    torch.testing.assert_close(gradient(state), expected, rtol=1e-4, atol=1e-6)


def test_blocks_up_to_the_tap_and_no_others_feel_the_term() -> None:
    config = aligned(replace(CONFIG, direction_weight=0.0), weight=3.0)
    state, pack = state_with_random_weights(config), taught_pack([Grid(3, 4)], config)

    def gradients(drawn: DrawnPack) -> dict[str, torch.Tensor]:
        backward(state, [drawn], config)
        return {name: p.grad.clone() for name, p in state.model.named_parameters() if p.grad is not None}

    with_teacher, without = gradients(pack), gradients(replace(pack, teacher=None))
    assert {name for name in with_teacher if name not in without} == {
        name for name, _ in state.model.named_parameters() if name.startswith("projector.")
    }
    for name, theirs in without.items():
        early = name.startswith(("blocks.0.", "patch_embedding.", "conditioner."))
        assert torch.allclose(with_teacher[name], theirs, atol=1e-7) != early, name


def test_aligning_brings_the_projection_to_the_teacher() -> None:
    config = aligned(replace(CONFIG, optimizer=replace(CONFIG.optimizer, learning_rate=3e-3)))
    state, pack = TrainState.create(config, CPU), taught_pack([Grid(3, 4), Grid(2, 5)], config)
    found = []
    for _ in range(60):
        loss = backward(state, [pack], config)
        update(state, loss, config)
        found.append(float(loss.alignment))
    assert found[-1] < 0.3 * found[0]


def test_a_model_begins_the_same_with_and_without() -> None:
    plain, taught = TrainState.create(CONFIG, CPU).model, TrainState.create(aligned(CONFIG), CPU).model
    theirs = taught.state_dict()
    assert set(theirs) > set(plain.state_dict())
    assert all(torch.equal(value, theirs[name]) for name, value in plain.state_dict().items())
    assert taught.projector is not None
    assert float(taught.projector[0].weight.detach().std()) > 0


def test_copies_of_a_pack_carry_the_features() -> None:
    one = taught_pack([Grid(3, 4)], aligned(CONFIG))
    assert one.teacher is not None
    static = replace(one, teacher=torch.zeros_like(one.teacher)).clone()
    static.copy_(one)
    assert static.teacher is not None
    assert torch.equal(static.teacher, one.teacher)
    assert static.teacher.data_ptr() != one.teacher.data_ptr()
    assert replace(one, teacher=None).clone().teacher is None


def test_features_are_read_until_the_term_ends(data: Path) -> None:
    config = aligned(settings(data, steps=4, packs_per_step=2), stop_after=2)
    loader, _ = loaders(LatentDataset.open(data), config)
    packs = drawn_packs(config, TrainState.create(config, CPU), loader)
    assert [next(packs).teacher is not None for _ in range(8)] == [True] * 4 + [False] * 4
    packs.close()


def test_the_run_says_what_it_does_and_its_held_out_loss_is_comparable(data: Path, tmp_path: Path) -> None:
    config = aligned(settings(data), stop_after=4)
    train(config, data, tmp_path / "run", device="cpu")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert ["loss_alignment" in record for record in records if record["kind"] == "train"] == [True] * 4 + [False] * 2
    assert not any(name.startswith("projector") for name in last_state(tmp_path / "run"))
    # the same weights measured without a teacher
    dataset_, plain = LatentDataset.open(data), settings(data)
    _, held_out = loaders(dataset_, config)
    _, held_out_plain = loaders(dataset_, plain)
    assert held_out is not None
    assert held_out_plain is not None
    taught, bare = TrainState.create(config, CPU), TrainState.create(plain, CPU)
    assert held_out_loss(taught, held_out, config) == held_out_loss(bare, held_out_plain, plain)


def test_a_resumed_run_is_bit_for_bit_the_undisturbed_one(data: Path, tmp_path: Path) -> None:
    """Also where it is resumed after the term has ended."""
    config = aligned(settings(data), stop_after=2)
    train(config, data, tmp_path / "whole", device="cpu")
    for steps in (1, 3, 6):
        train(replace(config, steps=steps), data, tmp_path / "parts", device="cpu")
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    whole, parts = last_state(tmp_path / "whole"), last_state(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_recipes_align_where_the_data_has_features_unless_told_not_to(data: Path, tmp_path: Path) -> None:
    def run(out: str, *options: str) -> TrainConfig:
        command = ["train", "tutorial", "--data", data, "--out", tmp_path / out, "--device", "cpu", "--steps", "2"]
        command += ["--log-every", "1", "--pictures.every", "0", *options]
        assert main([*map(str, command)]) == 0
        return from_dict(TrainConfig, read_json(tmp_path / out / "config.json"))

    with_teacher = run("aligned", "--teacher.weight", "0.25", "--model.projection.after-block", "3")
    assert with_teacher.teacher == TeacherConfig(weight=0.25)
    assert with_teacher.model.projection is not None
    assert (with_teacher.model.projection.after_block, with_teacher.model.projection.dim) == (3, FEATURES)
    without = run("plain", "--no-repa")
    assert (without.teacher, without.model.projection) == (None, None)


def test_what_does_not_fit_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = aligned(settings(data))
    with pytest.raises(ConfigError, match=r"both teacher and model\.projection"):
        replace(config, teacher=None)
    with pytest.raises(ConfigError, match="weight = 0"):
        TeacherConfig(weight=0)
    with pytest.raises(ConfigError, match="stop_after = 0"):
        TeacherConfig(stop_after=0)
    wide = replace(config, model=replace(config.model, projection=ProjectionConfig(after_block=1, hidden=16, dim=9)))
    with pytest.raises(DataError, match=r"features of 9 channels, and the dataset .* mean-colours \(0\): 3 channels"):
        train(wide, data, tmp_path / "wide", device="cpu")
    command = ["train", "tutorial", "--data", data, "--out", tmp_path / "run", "--model.patch-size", "1"]
    assert main([*map(str, command)]) == 2
    message = capsys.readouterr().err
    assert "aligns tokens of 1x1 cells" in message
    assert "--multiple-of-cells 1, or train with --no-repa" in message
    plain = dataset(tmp_path / "plain", multiple_of_cells=2)
    with pytest.raises(DataError, match="holds no teacher's features"):
        train(config, plain, tmp_path / "none", device="cpu")


class _Greyer(MeanColours):
    identity = "greyer (1)"


def test_a_run_keeps_its_teacher(data: Path, tmp_path: Path) -> None:
    config = aligned(settings(data, steps=1))
    train(config, data, tmp_path / "run", device="cpu")
    other = dataset(tmp_path, teacher=_Greyer(), multiple_of_cells=2)
    with pytest.raises(CheckpointError, match=r"began with features of mean-colours \(0\), .* those of greyer \(1\)"):
        train(replace(config, steps=2), other, tmp_path / "run", device="cpu")
