"""The attention of a pack of three images: none of it leaves an image."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anyres import noise
from anyres.grid import Grid
from anyres.inspection.attention import PackAttention, pack_attention
from anyres.inspection.plots import plot_attention
from anyres.model import attention
from anyres.model.nit import NiT
from tests.model.helpers import random_model, small_config

GRIDS = [Grid(3, 5), Grid(4, 4), Grid(7, 1)]
LABELS = [0, 3, 1]
EDGES = [0, 15, 31, 38]


@pytest.fixture(scope="module")
def model() -> NiT:
    return random_model(small_config(depth=3))


@pytest.fixture(scope="module")
def found(model: NiT) -> PackAttention:
    return pack_attention(model, GRIDS, LABELS)


def test_attention_is_block_diagonal_exactly(found: PackAttention) -> None:
    assert found.outside == 0.0
    assert found.weights.shape == (3, 38, 38)
    assert found.layout.cu_seqlens.tolist() == EDGES
    inside = torch.zeros(38, 38, dtype=torch.bool)
    for start, end in pairwise(EDGES):
        inside[start:end, start:end] = True
    assert (found.weights[:, ~inside] == 0).all()
    assert (found.weights[:, inside] > 0).all()


def test_a_token_gives_all_its_attention_within_its_image(found: PackAttention) -> None:
    for start, end in pairwise(EDGES):
        rows = found.weights[:, start:end, start:end].sum(dim=2)
        torch.testing.assert_close(rows, torch.ones_like(rows))


def test_attention_is_not_uniform_and_blocks_differ(found: PackAttention) -> None:
    for start, end in pairwise(EDGES):
        for block in found.weights[:, start:end, start:end]:
            assert (block - 1 / (end - start)).abs().max() > 0.1 / (end - start)
    assert not torch.allclose(found.weights[0], found.weights[1], atol=1e-3)


def test_a_leak_would_be_seen(model: NiT, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = attention.plan_attention

    def leaky(*arguments):
        mask = plan(*arguments).mask.clone()
        mask[2, 20] = True  # one token of the first image sees one of the second
        return attention.DenseMask(mask)

    monkeypatch.setattr("anyres.model.nit.plan_attention", leaky)
    assert pack_attention(model, GRIDS, LABELS).outside > 0.001


def test_without_a_mask_all_see_all(model: NiT, monkeypatch: pytest.MonkeyPatch) -> None:
    open_mask = attention.DenseMask(torch.ones(38, 38, dtype=torch.bool))
    monkeypatch.setattr("anyres.model.nit.plan_attention", lambda *_: open_mask)
    assert (pack_attention(model, GRIDS, LABELS).weights > 0).all()


def test_weights_are_those_that_the_forward_pass_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recomputed from what `attend` itself is given."""
    model = random_model(small_config())
    given = []
    attend = attention.attend

    def spy(q, k, v, plan):
        scores = (q.transpose(0, 1) @ k.permute(1, 2, 0)) * q.shape[-1] ** -0.5  # (heads, tokens, tokens)
        given.append(scores.masked_fill(~plan.mask, -torch.inf).softmax(dim=-1).mean(0))
        return attend(q, k, v, plan)

    monkeypatch.setattr("anyres.model.elementwise.attend", spy)
    found = pack_attention(model, GRIDS, LABELS)
    torch.testing.assert_close(found.weights, torch.stack(given))


def test_an_images_attention_is_what_it_is_alone(model: NiT, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same noise, which is drawn for the pack as a whole."""
    whole = noise.normal((38, model.config.token_values), "attention")
    found = pack_attention(model, GRIDS, LABELS)
    for i, (start, end) in enumerate(pairwise(EDGES)):
        monkeypatch.setattr(noise, "normal", lambda *_, part=whole[start:end]: part)
        alone = pack_attention(model, [GRIDS[i]], [LABELS[i]])
        torch.testing.assert_close(found.weights[:, start:end, start:end], alone.weights)
        assert alone.outside == 0.0


def test_labels_and_time_reach_the_attention(model: NiT, found: PackAttention) -> None:
    relabelled = pack_attention(model, GRIDS, [0, 2, 1]).weights
    assert torch.equal(relabelled[:, :15], found.weights[:, :15])
    assert not torch.allclose(relabelled[:, 15:31], found.weights[:, 15:31])
    assert not torch.allclose(pack_attention(model, GRIDS, LABELS, t=0.9).weights, found.weights)


def test_the_model_is_left_as_it_was(model: NiT) -> None:
    before = model.attention
    pack_attention(model, GRIDS, LABELS)
    with pytest.raises(IndexError):
        pack_attention(model, GRIDS, [0, 999, 1])
    assert model.attention == before == "auto"
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_plot_shows_three_bright_blocks_on_black(found: PackAttention, tmp_path: Path) -> None:
    titles = ["a\n5x3", "b\n4x4", "c\n1x7"]
    picture = np.asarray(Image.open(plot_attention(found, titles, tmp_path)).convert("RGB")).astype(int)
    assert [path.name for path in tmp_path.iterdir()] == ["attention.png"]
    dark = (picture.max(axis=2) < 20).mean()
    warm = (picture[..., 0] > picture[..., 2] + 40).mean()  # magma's red and orange
    assert dark > 0.15
    assert warm > 0.03
    even = torch.full_like(found.weights, 0.3)
    flat = plot_attention(dataclasses.replace(found, weights=even), titles, tmp_path / "flat")
    assert not np.array_equal(picture, np.asarray(Image.open(flat).convert("RGB")))
