"""Noise drawn on a GPU: the check of `tests/train/test_noise_kernel.py`."""

import pytest

from tests.train.test_noise_kernel import check_equal

pytestmark = pytest.mark.gpu


def test_the_kernel_draws_the_hosts_noise() -> None:
    check_equal("cuda")
