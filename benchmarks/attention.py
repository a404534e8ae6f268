"""Attention by each backend, alone, over packs of images of one length.

    python -m benchmarks attention [--tokens 16384] [--sides 8 16 24 32 64] [--heads 16] [--dims 64 72] [--device auto]
        [--out FILE]

Milliseconds of one block, forward, and forward and backward, without launches, and of a pass without gradients with the
norm and the rotation of queries and keys before it. `auto` picks by what this shows.
"""

import argparse
from pathlib import Path

import torch

from anyres.devices import pick_device
from anyres.errors import BackendError
from anyres.model.attention import pick_backend
from anyres.model.config import NiTConfig
from anyres.tables import aligned

from .floors import attended_ms, attention_ms, dtype_on
from .recording import device_name, record_of_device

BACKENDS = ("triton", "varlen", "sdpa")  # flex waits for the device as it makes its mask, and cannot be recorded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16384, help="of a pack")
    parser.add_argument("--sides", type=int, nargs="+", default=(8, 16, 24, 32, 64), help="of the images, in tokens")
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--dims", type=int, nargs="+", default=(64, 72), help="of a head")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = pick_device(options.device)
    rows, table = [], [("dim", "tokens an image", "backend", "forward, ms", "and backward, ms", "with norm, rotation")]
    for dim in options.dims:
        config = NiTConfig(channels=4, hidden_size=options.heads * dim, depth=1, num_heads=options.heads, num_classes=1)
        for side in options.sides:
            lengths = [side**2] * max(1, options.tokens // side**2)
            for backend in filter(lambda name: runs(name, device), BACKENDS):
                forward, both = (
                    attention_ms(lengths, config, device, backward=backward, backend=backend)
                    for backward in (False, True)
                )
                turned = attended_ms(lengths, config, device, backend=backend)
                found = {"forward": forward, "both": both, "with_norm_and_rotation": turned}
                rows.append({"dim": dim, "length": side**2, "backend": backend} | found)
                table.append((str(dim), str(side**2), backend, *(f"{ms:.3f}" for ms in found.values())))
    print(f"{device_name(device)}, torch {torch.__version__}")
    print(aligned(table))
    record_of_device(options.out, "attention", device, rows)


def runs(backend: str, device: torch.device) -> bool:
    """Whether the backend can run here."""
    try:
        pick_backend(backend, device, dtype_on(device))
    except BackendError:
        return False
    return True
