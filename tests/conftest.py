"""Shapes and types of every call are checked while the tests run (jaxtyping + beartype).

`pytest --no-float64` runs the tests as on a device without float64: whatever makes such a tensor fails, except in tests
marked `float64`. `pytest` without a path shares the tests among a process a core (pytest-xdist). On a machine with GPUs
`pytest -m gpu` runs the tests that want one (`on_gpus.py`).
"""

import importlib.util
import os
from collections.abc import Iterator

import pytest
import torch
from beartype import BeartypeConf, beartype
from hypothesis import settings
from jaxtyping import install_import_hook

from tests.float64 import forbid_float64
from tests.on_gpus import hide_gpus

hide_gpus()
# without one, Triton's kernels run in its interpreter, where Triton is installed at all
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
if importlib.util.find_spec("triton"):
    # before the hook below: Triton reads its functions' source, and their arguments are no tensors
    import anyres.latents.kernels.depthwise
    import anyres.latents.kernels.linear_attention
    import anyres.latents.kernels.steps
    import anyres.model.kernels.attention
    import anyres.model.kernels.float8
    import anyres.model.kernels.forward_attention
    import anyres.model.kernels.gelu
    import anyres.model.kernels.norms
    import anyres.model.kernels.rotation
    import anyres.train.kernels.adamw
    import anyres.train.kernels.normal  # noqa: F401

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int where a float is asked for is fine
install_import_hook("anyres", "tests.conftest.check_types")


# a test's first example may have to wait for a compiler or a library
settings.register_profile("anyres", deadline=None)
settings.load_profile("anyres")


MOST_WORKERS = 4  # each takes a gigabyte, and the longest tests bound what more would gain


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist, which reads what is set here
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Several processes where the tests are many: with a path, a debugger, `-s` or a GPU, one."""
    option = config.option
    if getattr(option, "numprocesses", 0) is not None:
        return  # the command says how many, or pytest-xdist is not there
    a_worker = "PYTEST_XDIST_WORKER" in os.environ  # it has no `-n` either
    with_a_path = config.args_source is pytest.Config.ArgsSource.ARGS
    watched = option.usepdb or option.capture == "no" or option.collectonly
    if a_worker or with_a_path or watched or torch.cuda.is_available():
        return
    option.numprocesses, option.dist = "logical", "worksteal"
    option.maxprocesses = option.maxprocesses or MOST_WORKERS
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers fill the cores


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-float64", action="store_true", help="run as on a device without float64")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    devices = torch.cuda.device_count()
    for item in items:
        if item.get_closest_marker("gpu") and devices < 1:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and pytest -m gpu"))
        if item.get_closest_marker("multi_gpu") and devices < 2:
            item.add_marker(pytest.mark.skip(reason="needs two CUDA devices, and pytest -m multi_gpu"))
        if item.get_closest_marker("float64") and config.getoption("--no-float64"):
            item.add_marker(pytest.mark.skip(reason="uses float64"))


@pytest.fixture(autouse=True)
def _device_without_float64(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not request.config.getoption("--no-float64"):
        yield
        return
    with forbid_float64(monkeypatch):
        yield
