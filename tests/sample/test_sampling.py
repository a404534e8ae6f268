"""Properties of sampling: what an image depends on, what is computed, and what is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from anyres.errors import ConfigError, NonFiniteError
from anyres.packing.pack import PackShape
from anyres.sample import pipeline as pipeline_module
from anyres.sample.pipeline import Pipeline
from anyres.sample.request import LabelTable, SamplingSettings, make_requests
from tests.float64 import forbid_float64
from tests.model.helpers import random_model, small_config
from tests.sample.helpers import LABELS, small_autoencoder, small_pipeline, watched

SIZES = ["40x64", "64x40", "24x24", "48x48", "24x24", "8x16"]
CHOSEN = ["apple", "bridge", "cloud", "dune", "apple", "7"]
SOLVERS = ("euler", "heun", "sde")


@pytest.fixture(scope="module")
def pipe():
    return small_pipeline()


def requests_for(pipe, labels=CHOSEN, sizes=SIZES, seeds=None):
    return make_requests(labels, sizes, seeds, table=pipe.labels, px_per_token=pipe.px_per_token)


def relative(a, b):
    return float((a - b).norm() / b.norm())


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("patch", [1, 2])
def test_bit_identical_alone_among_others_and_in_another_order(solver, patch):
    pipe, shape = small_pipeline(patch_size=patch), PackShape.fitting(300, 8, 80)
    sizes = ["80x64", "64x80", "32x32", "48x48", "32x32", "16x32"]
    requests, settings = requests_for(pipe, sizes=sizes), replace(pipe.defaults, solver=solver)
    together = pipe.latents(requests, settings, shape=shape)
    backwards = pipe.latents(requests[::-1], settings, shape=shape)[::-1]
    for a, b, request in zip(together, backwards, requests, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, pipe.latents([request], settings, shape=shape)[0])


@pytest.mark.parametrize("solver", SOLVERS)
def test_close_without_a_shape_and_at_any_budget(pipe, solver):
    requests, settings = requests_for(pipe), replace(pipe.defaults, solver=solver)
    together = pipe.latents(requests, settings)
    apart = pipe.latents(requests, settings, budget=50)
    for a, b, request in zip(together, apart, requests, strict=True):
        alone = pipe.latents([request], settings)[0]
        assert relative(a, alone) < 1e-5
        assert relative(b, alone) < 1e-5


def test_solvers_agree_on_many_steps_but_are_not_one(pipe):
    requests = requests_for(pipe, ["apple"], ["24x16"])

    def made(solver, steps):
        return pipe.latents(requests, SamplingSettings(solver=solver, steps=steps, guidance=1.0))[0]

    best = made("heun", 100)
    assert relative(made("euler", 100), best) < relative(made("euler", 20), best) < 0.2
    assert relative(made("heun", 20), best) < 0.2 * relative(made("euler", 20), best)
    assert relative(made("sde", 20), best) > 0.05


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_image_follows_from_its_own_seed_label_and_size(pipe, solver):
    def one(**changed):
        return pixels(pipe(**{"labels": 1, "sizes": "24x16", "seeds": 3, "solver": solver, **changed})[0])

    base = one()
    assert (base == one()).all()
    for changed in ({"seeds": 4}, {"labels": 2}, {"steps": 5}, {"guidance": 3.0}, {"guidance_interval": (0.0, 1.0)}):
        assert (base != one(**changed)).any(), changed


def test_starts_and_the_noise_of_steps_are_independent(pipe):
    draws = [pipe._draw(requests_for(pipe), *address).flatten() for address in (("start",), ("step", 0), ("step", 1))]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(3)
    assert correlations.abs().max() < 0.1


def test_decoding_together_or_one_by_one_is_the_same(pipe, monkeypatch):
    latents = pipe.latents(requests_for(pipe), pipe.defaults)
    together = pipe.decode(latents)
    assert [f"{image.width}x{image.height}" for image in together] == SIZES
    monkeypatch.setitem(pipeline_module.DECODED_PX, "cpu", 1)
    for a, b in zip(together, pipe.decode(latents), strict=True):
        assert np.abs(pixels(a) - pixels(b)).max() <= 1


def test_decoded_pixels_are_the_autoencoders(pipe):
    latent = pipe.latents(requests_for(pipe, [1], ["24x16"]), pipe.defaults)[0]
    expected = pipe.autoencoder.decode(latent[None])[0].permute(1, 2, 0).clamp(-1, 1)
    got = torch.from_numpy(pixels(pipe.decode([latent])[0])).float() / 127.5 - 1
    assert (got - expected).abs().max() < 1.01 / 255


def test_the_scaling_is_undone(pipe):
    requests = requests_for(pipe, [1], ["24x16"])

    def made(shift, factor):
        scaling = replace(pipe.scaling, shift=shift, factor=factor)
        other = Pipeline(pipe.model, pipe.autoencoder, pipe.labels, scaling, trained_side=6)
        return other.latents(requests, pipe.defaults)[0]

    factor = (2.0, 4.0, 1.0, 0.5, 1.0, 3.0)
    expected = made((0.0,) * 6, (1.0,) * 6) / torch.tensor(factor)[:, None, None] + 1
    torch.testing.assert_close(made((1.0,) * 6, factor), expected)


def test_no_guidance_computes_one_branch(pipe, monkeypatch):
    with watched(pipe.model, monkeypatch) as calls:
        pipe(["apple", "dune"], "24x16", guidance=1.0, steps=3)
    assert calls.tokens == [12] * 3
    assert calls.labels == [[0, 3]] * 3
    assert calls.prepared == 1


def test_null_tokens_are_computed_inside_the_interval_only(pipe, monkeypatch):
    with watched(pipe.model, monkeypatch) as calls:
        pipe(["apple", "dune"], "24x16", guidance=2.0, guidance_interval=(0.5, 0.75), steps=4)
    assert dict(zip(calls.times, calls.tokens, strict=True)) == {1.0: 12, 0.75: 24, 0.5: 24, 0.25: 12}
    assert calls.labels[1] == [0, 3, 5, 5]
    assert calls.prepared == 2  # a pack's contexts are made once, not at each step


def test_guidance_extrapolates_from_null_to_label(pipe):
    requests = requests_for(pipe, ["cloud"], ["24x16"])

    def step(guidance):
        return pipe.latents(requests, SamplingSettings(steps=1, guidance=guidance, guidance_high=1.0))[0]

    # one Euler step is linear in the velocity
    torch.testing.assert_close(step(3.0), step(0.0) + 3.0 * (step(1.0) - step(0.0)), atol=1e-5, rtol=1e-5)


def test_autoguidance_takes_the_weaker_network_in_the_null_branchs_place(pipe):
    weaker = small_pipeline(seed=5, depth=1)
    requests = requests_for(pipe)
    one = SamplingSettings(steps=1, guidance=1.0)
    strong, weak = pipe.latents(requests, one), weaker.latents(requests, one)
    guided = pipe.latents(requests, replace(one, guidance=3.0, guidance_high=1.0), weaker=weaker.model)
    for ours, a, b in zip(guided, strong, weak, strict=True):
        torch.testing.assert_close(ours, b + 3.0 * (a - b), rtol=1e-4, atol=1e-4)


def test_a_weaker_network_of_other_labels_is_refused(pipe):
    with pytest.raises(ConfigError, match="9 classes"):
        pipe(1, "24x16", weaker=random_model(small_config(num_classes=9)))


def test_the_callbacks_last_latents_are_the_images(pipe):
    seen = []
    requests = requests_for(pipe)
    final = pipe.latents(requests, pipe.defaults, budget=85, on_step=lambda info: seen.append((info, info.latents())))
    packs = len(pipe.packs(requests, 85))
    assert packs > 1
    counted = [(info.pack, info.packs, info.step, info.steps) for info, _ in seen]
    assert counted == [(pack, packs, step, 4) for pack in range(packs) for step in (1, 2, 3, 4)]
    last = [latent for info, latents in seen if info.step == 4 for latent in latents]
    assert all(torch.equal(a, b) for a, b in zip(last, final, strict=True))
    assert not torch.equal(seen[0][1][0], final[0])


def test_callback_counts_the_steps_of_the_sde(pipe):
    seen = []
    pipe(1, "8x8", solver="sde", steps=5, on_step=lambda info: seen.append((info.step, info.steps)))
    assert seen == [(step, 5) for step in range(1, 6)]


def test_extrapolation_matters_beyond_the_trained_side_only(pipe):
    def made(size, **options):
        return pixels(pipe(1, size, **options)[0])

    assert (made("48x48") == made("48x48", extrapolation="ntk-aware")).all()  # 6 tokens: the trained side
    assert (made("96x48") != made("96x48", extrapolation="ntk-aware")).any()
    coupled, decoupled = (made("96x48", extrapolation="linear", decoupled=flag) for flag in (False, True))
    assert (coupled != decoupled).any()


def test_an_image_longer_than_the_budget_goes_alone(pipe, monkeypatch):
    with watched(pipe.model, monkeypatch) as calls:
        pipe([1, 1, 1], ["8x8", "64x64", "8x8"], budget=4, steps=1, guidance=1.0)
    assert calls.tokens == [1, 64, 1]


def test_an_image_that_its_shape_cannot_hold_is_refused(pipe):
    with pytest.raises(ConfigError, match="fits its shape"):
        pipe(1, "64x64", shape=PackShape(100, 4, 40))


def test_values_that_are_not_finite_name_the_image():
    broken = small_pipeline()
    with torch.no_grad():
        broken.model.conditioner.labels.weight[2] = torch.nan
    with pytest.raises(NonFiniteError, match="'cloud' at 24x16"):
        broken(["apple", "cloud"], "24x16")
    broken(["apple"], "24x16")


def test_no_float64_where_the_device_has_none(pipe, monkeypatch):
    exact = pipe.latents(requests_for(pipe), pipe.defaults)
    with forbid_float64(monkeypatch):
        for solver in SOLVERS:
            made = pipe.latents(
                requests_for(pipe),
                replace(pipe.defaults, solver=solver, extrapolation="yarn"),
                shape=PackShape.fitting(300, 8, 40),
            )
            pipe.autoencoder.decode(made[0][None])
        for a, b in zip(pipe.latents(requests_for(pipe), pipe.defaults), exact, strict=True):
            assert relative(a, b) < 1e-5


def test_half_precision_networks_stay_near(pipe):
    half = small_pipeline()
    half.model.to(torch.bfloat16)
    exact = pipe.latents(requests_for(pipe), pipe.defaults)
    for a, b in zip(half.latents(requests_for(pipe), pipe.defaults), exact, strict=True):
        assert a.dtype == torch.float32
        assert relative(a, b) < 0.05


def test_parts_that_do_not_belong_together_are_refused(pipe):
    with pytest.raises(ConfigError, match="2 labels"):
        Pipeline(pipe.model, pipe.autoencoder, LabelTable(("a", "b")), pipe.scaling, trained_side=6)
    other = small_autoencoder(channels=5)
    with pytest.raises(ConfigError, match="5 channels of the autoencoder"):
        Pipeline(pipe.model, other, LabelTable(LABELS), other.scaling, trained_side=6)


def test_a_model_trained_on_single_tokens_can_sample():
    pipe = small_pipeline()
    pipe.trained_side = 1
    assert pipe(1, "16x8", extrapolation="scale1")[0].size == (16, 8)
