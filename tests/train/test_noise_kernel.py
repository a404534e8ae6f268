"""The noise that a device draws is the host's, from the same bits.

Without a GPU the kernel runs in Triton's interpreter.
"""

import pytest
import torch

from anyres import noise

pytest.importorskip("triton")


def check_equal(device: str) -> None:
    from anyres.train.kernels.normal import normal_of

    for rows, columns in ((1, 1), (7, 3), (333, 5), (1000, 32)):
        key = noise.key(3, "noise", rows)
        host, drawn = noise.normal_of(key, (rows, columns)), normal_of(key.to(device), rows, columns).cpu()
        # the last digits of logarithm, sine and cosine are each device's own; a wrong bit would show as a new number
        torch.testing.assert_close(drawn, host, rtol=1e-5, atol=2e-6)


def test_the_kernel_draws_the_hosts_noise() -> None:
    check_equal("cpu")
