"""Sampling and training steps on a GPU, where the arithmetic is bfloat16 and attention is `varlen`."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anyres.grid import Size
from anyres.packing.pack import PackShape
from anyres.sample.request import SamplingSettings, make_requests
from anyres.train import checkpoint
from anyres.train.loop import train
from tests.made import dataset
from tests.model.helpers import random_model, small_config
from tests.sample.helpers import small_pipeline
from tests.train.test_run import last_state, losses, settings

pytestmark = pytest.mark.gpu

SIZES = ["256x384", "128x64", "320x320", "8x8", "64x256", "256x256"]


def pipe_on_gpu(attention: str, dtype: torch.dtype):
    pipe = small_pipeline()
    config = small_config(hidden_size=256, num_heads=4, depth=4)
    pipe.model = random_model(config, attention=attention).to("cuda", dtype).eval()
    return pipe


@pytest.mark.parametrize("solver", ["euler", "heun", "sde"])
@pytest.mark.parametrize(
    ("attention", "dtype"),
    [("triton", torch.bfloat16), ("varlen", torch.bfloat16), ("flex", torch.bfloat16), ("sdpa", torch.float32)],
)
def test_an_image_is_the_same_alone_and_among_others(solver: str, attention: str, dtype: torch.dtype) -> None:
    pipe = pipe_on_gpu(attention, dtype)
    shape = PackShape.fitting(8192, 8, 2048)
    requests = make_requests([*list("01234"), "0"], SIZES, None, table=pipe.labels, px_per_token=pipe.px_per_token)
    how = SamplingSettings(steps=4, solver=solver, guidance=2.0)
    together = pipe.latents(requests, how, shape=shape)
    backwards = pipe.latents(requests[::-1], how, shape=shape)[::-1]
    for i, request in enumerate(requests):
        alone = pipe.latents([request], how, shape=shape)[0]
        if attention in ("triton", "varlen"):
            assert torch.equal(together[i], alone)  # bit for bit, at an equal PackShape
            assert torch.equal(backwards[i], alone)
        else:  # the order of its sums follows from where in the pack an image lies, and which others there are
            assert float((together[i] - alone).norm() / alone.norm()) < (0.02 if dtype == torch.bfloat16 else 1e-5)


def test_half_precision_samples_are_near_those_of_float32_on_the_cpu() -> None:
    pipe = pipe_on_gpu("varlen", torch.bfloat16)
    exact = small_pipeline()
    exact.model = random_model(pipe.model.config, attention="reference").eval()
    requests = make_requests("0", Size(64, 96), [1, 2], table=pipe.labels, px_per_token=pipe.px_per_token)
    how = SamplingSettings(steps=4, guidance=2.0)
    for ours, theirs in zip(pipe.latents(requests, how), exact.latents(requests, how), strict=True):
        assert float((ours.cpu() - theirs).norm() / theirs.norm()) < 0.05


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("made"), multiple_of_cells=2)


def test_a_run_on_the_gpu_resumes_and_its_loss_falls_as_on_the_cpu(data: Path, tmp_path: Path) -> None:
    config = settings(data, steps=12)
    train(replace(config, steps=6), data, tmp_path / "gpu", device="cuda")
    report = train(config, data, tmp_path / "gpu", device="cuda")
    assert report.progress.step == 12
    train(config, data, tmp_path / "cpu", device="cpu")
    ours, theirs = losses(tmp_path / "gpu"), losses(tmp_path / "cpu")
    # the same images, times and noise; bfloat16 products
    assert all(abs(ours[step] - theirs[step]) < 0.03 * theirs[step] for step in theirs)
    assert last_state(tmp_path / "gpu").keys() == last_state(tmp_path / "cpu").keys()
    assert [path.name for path in checkpoint.saved(tmp_path / "gpu" / "checkpoints")] == ["step-10", "step-12"]


def test_a_step_in_float32_is_the_cpus(data: Path, tmp_path: Path) -> None:
    config = settings(data, steps=6, precision="float32", attention="sdpa")
    for device in ("cuda", "cpu"):
        train(config, data, tmp_path / device, device=device)
    ours, theirs = losses(tmp_path / "cuda"), losses(tmp_path / "cpu")
    assert all(abs(ours[step] - theirs[step]) < 1e-4 * theirs[step] for step in theirs)
