"""Products in 8 bits on a GPU: the checks of `tests/model/test_float8.py` at real widths, training and sampling."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anyres.packing.pack import PackShape
from anyres.sample.request import SamplingSettings, make_requests
from anyres.train.loop import train
from tests.gpu.test_sampling_and_training import SIZES, pipe_on_gpu
from tests.made import dataset
from tests.model import test_float8 as checks
from tests.train.test_run import losses, settings

pytestmark = pytest.mark.gpu

BFLOAT16 = torch.bfloat16


@pytest.mark.parametrize("width", [48, 1152, 3456, 4608])
def test_rows_are_rounded_each_at_its_own_scale(width: int) -> None:
    checks.check_rows(width, "cuda", BFLOAT16)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_so_in_its_row(value: float) -> None:
    checks.check_not_finite(value, "cuda")


@pytest.mark.parametrize("biased", [True, False])
def test_a_product_is_that_of_what_its_rows_stand_for(biased: bool) -> None:
    checks.check_product(biased, "cuda", BFLOAT16, 4e-3)


def test_weights_in_8_bits_follow_the_weights() -> None:
    checks.check_weights("cuda")


@pytest.mark.parametrize("width", [300, 4096, 4608])
def test_gelu(width: int) -> None:
    checks.check_gelu(width, "cuda", BFLOAT16, 4e-3)


def test_norms_write_what_they_give_in_8_bits() -> None:
    checks.check_norms("cuda", BFLOAT16)


@pytest.mark.parametrize(("height", "widths"), [(37, (48, 208)), (16346, (1152, 3456))])
def test_columns_are_the_rows_at_one_scale(height: int, widths: tuple[int, int]) -> None:
    checks.check_columns("cuda", height, widths)


@pytest.mark.parametrize("normed", [True, False])
def test_the_gradient_of_heads_in_8_bits(normed: bool) -> None:
    checks.check_heads(normed, "cuda", heads=16, dim=72)


def test_a_product_over_rows() -> None:
    checks.check_product_over_rows("cuda", BFLOAT16, 4e-3)


@pytest.mark.parametrize("width", [32, 1152])
@pytest.mark.parametrize("name", ["branch", "mlp", "heads", "attended", "norm"])
def test_each_function_is_the_plain_one_up_to_the_rounding(name: str, width: int) -> None:
    checks.check_function(name, "cuda", BFLOAT16, 0.08, width)


def test_a_network_with_and_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    checks.check_network("cuda", BFLOAT16, monkeypatch)


def test_a_projection_sees_what_is_there_in_8_bits_alone() -> None:
    checks.check_projection("cuda", BFLOAT16)


@pytest.mark.parametrize("packs_per_step", [1, 2])
def test_a_run_is_one_of_bfloat16_to_rounding_and_resumes(packs_per_step: int, tmp_path: Path) -> None:
    """Gradients of several packs are added up in float32, of weights in float32."""
    data = dataset(tmp_path, multiple_of_cells=2)
    config = settings(data, steps=12, packs_per_step=packs_per_step)
    for precision in ("bfloat16", "float8"):
        train(replace(config, precision=precision), data, tmp_path / precision, device="cuda")
    for steps in (5, 12):
        train(replace(config, precision="float8", steps=steps), data, tmp_path / "parts", device="cuda")
    plain, eight, parts = (losses(tmp_path / name) for name in ("bfloat16", "float8", "parts"))
    assert len(plain) == 12
    assert all(abs(eight[step] - plain[step]) < 0.03 * plain[step] for step in plain)
    assert eight != plain
    assert all(abs(parts[step] - eight[step]) < 0.003 * eight[step] for step in eight)


def test_an_image_is_the_same_alone_and_among_others() -> None:
    pipe = pipe_on_gpu("triton", BFLOAT16)
    plain = SamplingSettings(steps=4, guidance=2.0)
    requests = make_requests([*list("01234"), "0"], SIZES, None, table=pipe.labels, px_per_token=pipe.px_per_token)
    shape = PackShape.fitting(8192, 8, 2048)
    exact = pipe.latents(requests, plain, shape=shape)
    pipe = pipe_on_gpu("triton", BFLOAT16)
    pipe.model.use_float8(training=False)
    together = pipe.latents(requests, plain, shape=shape)
    for request, one, other in zip(requests, together, exact, strict=True):
        assert torch.equal(pipe.latents([request], plain, shape=shape)[0], one)
        assert 0 < (one - other).norm() < 0.1 * other.norm()
