"""Shapes and types of every call are checked while the tests run (jaxtyping + beartype)."""

import pytest
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int where a float is asked for is fine
install_import_hook("anyres", "tests.conftest.check_types")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    devices = torch.cuda.device_count()
    for item in items:
        if item.get_closest_marker("gpu") and devices < 1:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("multi_gpu") and devices < 2:
            item.add_marker(pytest.mark.skip(reason="needs two CUDA devices"))
