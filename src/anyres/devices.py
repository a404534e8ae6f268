"""Which device to run on, and what it can do."""

import torch

from .errors import BackendError, ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")


def pick_device(name: str) -> torch.device:
    """The device of this name; "auto" is CUDA, then Apple's MPS, then the CPU.

    Args:
        name: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        ConfigError: an unknown name.
        BackendError: this machine or this installation of torch lacks the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, number = device_kind(name), name.partition(":")[2]
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if int(number or 0) >= available:
        raise BackendError(
            f"device {name!r} is not available: torch {torch.__version__} sees {available} of its kind",
            wanted="a device of this machine",
            fix="use 'auto', or install the torch build for that device",
        )
    return torch.device(name)


def device_kind(name: str) -> str:
    """The name without a number, whether this machine has such a device or not.

    Raises:
        ConfigError: an unknown name.
    """
    kind, _, number = name.partition(":")
    if kind not in DEVICES or (number and not number.isdigit()):
        raise ConfigError(f"got device {name!r}", wanted=f"one of {', '.join(DEVICES)}, or cuda:N", fix="use 'auto'")
    return kind


def state_dtype(device: torch.device) -> torch.dtype:
    """The dtype of a solver's state: float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
