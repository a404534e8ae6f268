import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from anyres.errors import BackendError, ConfigError
from anyres.grid import Grid
from anyres.model.config import PRESETS, PUBLISHED_PROJECTIONS, NiTConfig, ProjectionConfig
from anyres.model.nit import NiT, Prediction
from anyres.packing.pack import PackLayout, PackShape
from tests.model.helpers import random_model, small_config

GRIDS = [Grid(3, 5), Grid(4, 4), Grid(1, 7)]
grids = st.lists(st.builds(Grid, st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4)


def inputs(layout: PackLayout, config: NiTConfig, seed: int = 0, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(layout.shape.tokens, config.token_values, generator=generator, dtype=dtype)
    t = torch.rand(layout.shape.images, generator=generator, dtype=dtype)
    labels = torch.randint(config.num_classes + 1, (layout.shape.images,), generator=generator)
    return tokens, t, labels


@pytest.mark.parametrize(
    ("preset", "millions"), [("s", 32.9), ("b", 130.3), ("l", 457.9), ("xl", 674.9), ("xxl", 1362.7)]
)
def test_presets_have_the_published_sizes(preset: str, millions: float) -> None:
    with torch.device("meta"):
        model = NiT(NiTConfig.preset(preset, num_classes=1000))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


def test_every_published_preset_has_its_projector() -> None:
    for name, projection in PUBLISHED_PROJECTIONS.items():
        config = NiTConfig.preset(name, num_classes=1000, projection=projection)
        assert config.projection == projection
    assert set(PUBLISHED_PROJECTIONS) == set(PRESETS) - {"mini"}


def test_an_untrained_network_predicts_zero() -> None:
    config = small_config()
    layout = PackLayout.from_grids(GRIDS)
    assert NiT(config)(*inputs(layout, config), layout).abs().max() == 0


@pytest.mark.float64
@pytest.mark.parametrize("attention", ["reference", "sdpa"])
@pytest.mark.parametrize(
    "overrides", [{}, {"adaln_rank": 8, "qk_norm": False, "patch_size": 2}, {"position_order": "column_major"}]
)
def test_packed_equals_one_at_a_time(attention: str, overrides: dict) -> None:
    config = small_config(**overrides)
    model = random_model(config, attention=attention).double()
    layout = PackLayout.from_grids(GRIDS)
    tokens, t, labels = inputs(layout, config, dtype=torch.float64)
    packed = layout.split(model(tokens, t, labels, layout))
    for i, (grid, part) in enumerate(zip(GRIDS, layout.split(tokens), strict=True)):
        alone = model(part, t[i : i + 1], labels[i : i + 1], PackLayout.from_grids([grid]))
        torch.testing.assert_close(packed[i], alone, rtol=1e-7, atol=1e-9)  # rotation is float32 in tables only


@pytest.mark.float64
@settings(max_examples=20)
@given(grids, st.integers(0, 20), st.integers(0, 3), st.integers(0, 9))
def test_padding_changes_no_result(sizes: list[Grid], extra_tokens: int, extra_images: int, longer: int) -> None:
    config = small_config()
    model = random_model(config).double()
    exact = PackLayout.from_grids(sizes)
    longest = exact.shape.max_seqlen + longer
    shape = PackShape(exact.tokens + extra_tokens, len(sizes) + extra_images + -(-extra_tokens // longest), longest)
    padded = exact.padded(shape)
    tokens, t, labels = inputs(padded, config, dtype=torch.float64)
    n = len(sizes)
    without = model(tokens[: exact.tokens], t[:n], labels[:n], exact)
    torch.testing.assert_close(model(tokens, t, labels, padded)[: exact.tokens], without, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("attention", ["reference", "sdpa"])
def test_an_image_cannot_see_another(attention: str) -> None:
    config = small_config()
    model = random_model(config, attention=attention)
    layout = PackLayout.from_grids([Grid(2, 3), Grid(2, 2), Grid(3, 1)]).padded(PackShape(20, 8, 6))
    tokens, t, labels = inputs(layout, config)
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x, t, labels, layout), tokens)
    influence = jacobian.abs().sum(dim=(1, 3))  # (output token, input token)
    same = layout.image_index[:, None] == layout.image_index[None, :]
    assert influence[~same].max() == 0
    assert influence[same].min() > 0  # and within an image every token reaches every other


def test_time_and_label_of_an_image_reach_only_its_tokens() -> None:
    config = small_config()
    model = random_model(config)
    layout = PackLayout.from_grids(GRIDS)
    tokens, t, labels = inputs(layout, config)
    before = model(tokens, t, labels, layout)
    t, labels = t.clone(), labels.clone()
    t[1], labels[1] = 0.9 - t[1], (labels[1] + 1) % config.num_classes
    changed = (model(tokens, t, labels, layout) - before).abs().amax(dim=1) > 0
    assert changed.equal(layout.image_index == 1)


def test_the_forward_pass_never_asks_for_a_value() -> None:
    """Under fake tensors, reading a value on the host (`.item()`, a data-dependent branch) raises."""
    config = small_config(projection=ProjectionConfig(after_block=1, hidden=8, dim=4))
    layout = PackLayout.from_grids(GRIDS)
    tensors = inputs(layout, config)
    with FakeTensorMode() as mode:
        model = NiT(config, attention="reference")
        moved = {
            name: mode.from_tensor(getattr(layout, name))
            for name in ("positions", "image_index", "extents", "cu_seqlens")
        }
        fake_layout = PackLayout(grids=layout.grids, shape=layout.shape, **moved)
        prediction = model(*[mode.from_tensor(tensor) for tensor in tensors], fake_layout, projection=True)
        with pytest.raises(DataDependentOutputException):
            fake_layout.cu_seqlens[-1].item()  # the check can fail
    assert prediction.velocity.shape == (layout.tokens, config.token_values)


def test_projection_is_optional_and_absent_from_inference_weights() -> None:
    config = small_config(projection=ProjectionConfig(after_block=1, hidden=8, dim=4))
    model = random_model(config)
    layout = PackLayout.from_grids(GRIDS)
    tensors = inputs(layout, config)
    prediction = model(*tensors, layout, projection=True)
    assert isinstance(prediction, Prediction)
    assert prediction.projection.shape == (layout.tokens, 4)
    bare = model.without_projection()
    assert not any("projector" in name for name in bare.state_dict())
    assert torch.equal(bare(*tensors, layout), prediction.velocity)
    with pytest.raises(ConfigError, match="without a projector"):
        bare(*tensors, layout, projection=True)


def test_a_prepared_pack_gives_the_same_result() -> None:
    config = small_config()
    model = random_model(config)
    layout = PackLayout.from_grids(GRIDS)
    tensors = inputs(layout, config)
    assert torch.equal(model(*tensors, layout), model(*tensors, model.prepare(layout)))


def test_rotary_tables_stay_float32_in_half_precision() -> None:
    config = small_config()
    layout = PackLayout.from_grids(GRIDS)
    model = random_model(config)
    assert model.bfloat16().prepare(layout).rotary.cos.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        context = random_model(config).prepare(layout)
        assert context.rotary.cos.dtype == torch.float32
        velocity = random_model(config)(*inputs(layout, config), layout)
    exact = random_model(config)(*inputs(layout, config), layout)
    assert 0 < (velocity - exact).norm() / exact.norm() < 0.05


def test_flops_count_equals_the_profiler() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for overrides in ({}, {"adaln_rank": 8}):
        config = small_config(**overrides)
        layout = PackLayout.from_grids(GRIDS)
        with FlopCounterMode(display=False) as counter:
            random_model(config, attention="reference")(*inputs(layout, config), layout)
        # the dense mask multiplies the whole square, the count only each image's
        dense = 4 * config.hidden_size * config.depth * (layout.tokens**2 - sum(g.tokens**2 for g in GRIDS))
        assert config.forward_flops([g.tokens for g in GRIDS]) == counter.get_total_flops() - dense


@pytest.mark.parametrize("backend", ["varlen", "flex"])
def test_a_backend_that_this_machine_lacks_is_an_error(backend: str) -> None:
    config = small_config()
    model = random_model(config, attention=backend)
    layout = PackLayout.from_grids(GRIDS)
    with pytest.raises(BackendError, match="needs a CUDA device"):
        model(*inputs(layout, config), layout)


def test_unknown_backend_and_preset_are_errors_with_a_suggestion() -> None:
    config = small_config()
    layout = PackLayout.from_grids(GRIDS)
    with pytest.raises(ConfigError, match="did you mean 'varlen'"):
        random_model(config, attention="varlem")(*inputs(layout, config), layout)
    with pytest.raises(ConfigError, match="did you mean 'xxl'"):
        NiTConfig.preset("xxxl", num_classes=3)


@pytest.mark.parametrize(
    "overrides",
    [{"depth": 0}, {"num_heads": 5}, {"hidden_size": 20}, {"adaln_rank": 0}, {"mlp_ratio": 0.0},
     {"projection": ProjectionConfig(after_block=3, hidden=8, dim=4)}],
)  # fmt: skip
def test_impossible_architectures_are_refused(overrides: dict) -> None:
    with pytest.raises(ConfigError):
        small_config(**overrides)
