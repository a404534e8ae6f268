"""What a pack is: its images' layouts end to end, and padding that shows in no result."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyres.errors import ConfigError
from anyres.grid import Grid, coordinates
from anyres.packing.pack import Pack, PackLayout, PackShape
from tests.model.helpers import random_model, small_config

GRIDS = [Grid(3, 5), Grid(4, 4), Grid(1, 7)]
grids = st.lists(st.builds(Grid, st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=5)


@st.composite
def padded(draw: st.DrawFn) -> tuple[list[Grid], PackShape]:
    """Grids, and a shape that they fit, sometimes with no row or token to spare."""
    own = draw(grids)
    extra, longer, empty = draw(st.integers(0, 90)), draw(st.integers(0, 9)), draw(st.integers(0, 3))
    longest = max(grid.tokens for grid in own) + longer
    tokens = sum(grid.tokens for grid in own) + extra
    return own, PackShape(tokens, len(own) + -(-extra // longest) + empty, longest)


@settings(deadline=None)
@given(grids)
def test_a_packs_layout_is_its_images_layouts_end_to_end(own: list[Grid]) -> None:
    layout = PackLayout.from_grids(own)
    alone = [PackLayout.from_grids([grid]) for grid in own]
    assert torch.equal(layout.positions, torch.cat([one.positions for one in alone]))
    assert torch.equal(layout.image_index, torch.cat([one.image_index + i for i, one in enumerate(alone)]))
    assert torch.equal(layout.extents, torch.cat([one.extents for one in alone]))
    assert layout.cu_seqlens.diff().tolist() == [grid.tokens for grid in own] == list(layout.segments)
    assert layout.cu_seqlens[0] == 0
    assert layout.shape == PackShape(layout.tokens, len(own), max(grid.tokens for grid in own))
    assert bool(layout.is_real().all())


def test_an_image_alone_has_its_grids_coordinates() -> None:
    layout = PackLayout.from_grids([Grid(2, 3)])
    assert torch.equal(layout.positions, coordinates(Grid(2, 3)))
    assert layout.image_index.tolist() == [0] * 6
    assert layout.extents.tolist() == [[2, 3]]


@settings(deadline=None)
@given(padded())
def test_padding_leaves_the_real_part_as_it_is(problem: tuple[list[Grid], PackShape]) -> None:
    own, shape = problem
    exact, layout = PackLayout.from_grids(own), PackLayout.from_grids(own, shape)
    real, n = exact.tokens, len(own)
    assert (layout.tokens, layout.images, layout.shape) == (real, n, shape)
    assert torch.equal(layout.positions[:real], exact.positions)
    assert torch.equal(layout.image_index[:real], exact.image_index)
    assert torch.equal(layout.extents[:n], exact.extents)
    assert torch.equal(layout.cu_seqlens[: n + 1], exact.cu_seqlens)
    assert layout.is_real().tolist() == [True] * real + [False] * (shape.tokens - real)


@settings(deadline=None)
@given(padded())
def test_tensors_have_the_shape_alone_whatever_the_images(problem: tuple[list[Grid], PackShape]) -> None:
    own, shape = problem
    layout = PackLayout.from_grids(own, shape)
    assert layout.positions.shape == (shape.tokens, 2)
    assert layout.image_index.shape == (shape.tokens,)
    assert layout.extents.shape == (shape.images, 2)
    assert layout.cu_seqlens.shape == (shape.images + 1,)
    assert layout.cu_seqlens[-1] == shape.tokens
    assert layout.cu_seqlens.dtype == layout.positions.dtype == torch.int32


@settings(deadline=None)
@given(padded())
def test_padding_is_short_segments_of_its_own_then_empty_ones(problem: tuple[list[Grid], PackShape]) -> None:
    own, shape = problem
    layout = PackLayout.from_grids(own, shape)
    lengths = layout.cu_seqlens.diff().tolist()
    assert tuple(lengths) == layout.segments
    padding = lengths[len(own) :]
    assert all(0 <= length <= shape.max_seqlen for length in padding)
    assert sum(padding) == shape.tokens - layout.tokens
    assert all(before > 0 or after == 0 for before, after in pairwise(padding))  # nothing after an empty one
    assert (layout.extents[len(own) :] == 1).all()
    counts = torch.bincount(layout.image_index, minlength=shape.images).tolist()
    assert counts == lengths  # a token's row is its segment's


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        (PackShape(38, 3, 16), True),
        (PackShape(37, 3, 16), False),  # a token short
        (PackShape(38, 2, 16), False),  # a row short
        (PackShape(38, 3, 15), False),  # the longest image does not fit
        (PackShape(54, 4, 16), True),
        (PackShape(55, 4, 16), False),  # padding of 17 tokens needs two segments
        (PackShape(55, 5, 16), True),
    ],
)
def test_what_does_not_fit_is_refused(shape: PackShape, fits: bool) -> None:
    if fits:
        assert PackLayout.from_grids(GRIDS, shape).shape == shape
        return
    with pytest.raises(ConfigError, match="fits its shape"):
        PackLayout.from_grids(GRIDS, shape)


def test_empty_packs_and_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="no images"):
        PackLayout.from_grids([])
    for numbers in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ConfigError, match="at least one token"):
            PackShape(*numbers)


@settings(deadline=None)
@given(grids, st.integers(0, 60), st.integers(0, 3), st.integers(0, 20))
def test_a_fitting_shape_fits_all_packs_within_its_bounds(own: list[Grid], tokens: int, images: int, more: int) -> None:
    most = sum(grid.tokens for grid in own) + tokens
    shape = PackShape.fitting(most, len(own) + images, max(grid.tokens for grid in own) + more)
    for n in range(1, len(own) + 1):
        assert PackLayout.from_grids(own[:n], shape).shape == shape


@settings(deadline=None)
@given(padded())
def test_splitting_gives_each_real_image_its_tokens(problem: tuple[list[Grid], PackShape]) -> None:
    own, shape = problem
    layout = PackLayout.from_grids(own, shape)
    numbers = torch.arange(shape.tokens, dtype=torch.float32)[:, None]
    parts = layout.split(numbers)
    assert [len(part) for part in parts] == [grid.tokens for grid in own]
    assert torch.equal(torch.cat(parts), numbers[: layout.tokens])
    assert all((layout.image_index[part[:, 0].long()] == i).all() for i, part in enumerate(parts))
    assert parts[0].data_ptr() == numbers.data_ptr()  # views


def test_moving_takes_every_tensor_and_keeps_the_rest() -> None:
    layout = PackLayout.from_grids(GRIDS, PackShape(50, 6, 16))
    moved = layout.to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 4
    assert {tensor.device.type for tensor in tensors} == {moved.device.type} == {"meta"}
    assert (moved.grids, moved.shape) == (layout.grids, layout.shape)
    assert layout.device.type == "cpu"
    again = layout.to("cpu")
    assert all(torch.equal(getattr(again, n), v) for n, v in vars(layout).items() if isinstance(v, torch.Tensor))


def test_padding_later_is_padding_at_once() -> None:
    shape = PackShape(50, 6, 16)
    later, once = PackLayout.from_grids(GRIDS).padded(shape), PackLayout.from_grids(GRIDS, shape)
    assert all(torch.equal(getattr(later, n), v) for n, v in vars(once).items() if isinstance(v, torch.Tensor))


def test_a_pack_is_frozen() -> None:
    layout = PackLayout.from_grids([Grid(1, 2)])
    pack = Pack(
        layout=layout,
        latents=torch.zeros(2, 3),
        labels=torch.zeros(1, dtype=torch.int64),
        indices=(0,),
        flipped=(False,),
    )
    with pytest.raises(AttributeError):
        pack.indices = (1,)


@pytest.mark.float64
@pytest.mark.parametrize("attention", ["reference", "sdpa"])
def test_padding_changes_no_gradient_of_a_loss_over_real_tokens(attention: str) -> None:
    """That it changes no velocity is shown in tests/model/test_nit.py."""
    config = small_config()
    exact = PackLayout.from_grids(GRIDS)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(exact.tokens, config.token_values, generator=generator, dtype=torch.float64)
    t, labels = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64), torch.tensor([0, 3, 1])

    def gradients(layout: PackLayout) -> dict[str, torch.Tensor]:
        model = random_model(config, attention=attention).double()
        more_tokens, more_rows = layout.shape.tokens - exact.tokens, layout.shape.images - 3
        filled = torch.cat([tokens, torch.full((more_tokens, config.token_values), 7.0, dtype=torch.float64)])
        velocity = model(
            filled,
            torch.cat([t, torch.full((more_rows,), 0.7, dtype=torch.float64)]),
            torch.cat([labels, torch.full((more_rows,), 4)]),
            layout,
        )
        velocity[layout.is_real()].square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    without, with_padding = gradients(exact), gradients(exact.padded(PackShape(60, 7, 17)))
    assert len(without) > 10
    assert all(gradient.abs().max() > 0 for gradient in without.values())
    assert without.keys() == with_padding.keys()
    for name, gradient in without.items():
        torch.testing.assert_close(with_padding[name], gradient, rtol=1e-7, atol=1e-9, msg=name)
