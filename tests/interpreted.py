"""Triton's interpreter, as far as a GPU does something else."""

from typing import Any

import numpy as np
import pytest
import torch


def round_to_float8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter round to e4m3 as a GPU does: to the nearest, beyond 448 to 448.

    Its own way loses the carry of a mantissa that is rounded up: 1.99 becomes 1.
    """
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def converted(values: np.ndarray, kind: Any, wanted: Any, rounding: Any) -> np.ndarray:
        if str(wanted) != "fp8e4nv":
            return convert(values, kind, wanted, rounding)
        exact = torch.from_numpy(values.view({"fp32": np.float32, "fp16": np.float16}[str(kind)]).copy())
        exact = exact.float().clamp(-448, 448)
        return exact.to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", converted)
