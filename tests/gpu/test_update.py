"""The update in two passes on a GPU: the checks of `tests/train/test_update.py`."""

import pytest

from tests.train.test_update import check_equal, check_rounded

pytestmark = pytest.mark.gpu


def test_equals_the_plain_update() -> None:
    check_equal("cuda")


def test_the_network_computes_with_rounded_weights() -> None:
    check_rounded("cuda")
