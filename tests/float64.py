"""A stand-in for a device without float64: any operation that makes a float64 tensor raises."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64 for leaf in tree_leaves(result)):
            raise AssertionError(f"{func} made a float64 tensor")
        return result


@contextmanager
def forbid_float64(monkeypatch) -> Iterator[None]:
    """Inside, the state of solvers is float32, as on a device without float64, and float64 raises."""
    monkeypatch.setattr("anyres.sample.pipeline.state_dtype", lambda device: torch.float32)
    with _NoFloat64():
        yield
