"""The network of FID: TensorFlow's Inception of 2015-12-05 (arXiv 1512.00567), with its own input and quirks.

Where it differs from the Inception v3 of today: average pools leave their padding out of the mean, the last block's
pool is a maximum, batch norms have ε = 10⁻³, and there are 1,008 classes. Its weights are read in the form of the
widely used conversion from TensorFlow, under whose parameter names it is written here.
"""

import sys
from http.client import HTTPException
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import CheckpointError, DataError, first_line
from ..files import make_folder
from ..shapes import Float, Tensor
from ..weightfiles import read_safetensors
from .features import SPATIAL_CHANNELS, Features, identity_of, require_sides, require_uint8

URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
HASH = "6726825d"  # the first digits of the file's SHA-256
SIDE = 299  # px
COUNTER = ".num_batches_tracked"
LEAST_SIDE = 43  # px that one position of `maps` needs
CLASSES = 1008


class FidInception:
    """FID's network (arXiv 1706.08500), as the ADM evaluator runs it.

    Images are 8-bit, as they are when saved: their quantisation is part of the metric. They are stretched to 299x299 by
    TensorFlow 1's bilinear resize, without antialiasing, to (x − 128) / 128. Places are the first 7 channels of
    "mixed_6/conv" (17 × 17), and classes leave the bias out, both as there. `maps` are of "mixed_7", the block before
    the last reduction, at stride 16: no reduction until there is padded, so position i is centred on px 16 i + 21.

    Args:
        device: where it runs.
        weights: a file, .pth or .safetensors; by default it is downloaded once.

    Raises:
        DataError: it cannot be downloaded.
        CheckpointError: it is of another network, or damaged.
    """

    name, dim, map_px = "inception", 2048, 16
    protocol = "8-bit, stretched to 299x299 by TensorFlow 1's bilinear resize, (x - 128) / 128, float32"

    def __init__(self, device: torch.device, weights: Path | None = None) -> None:
        path = weights or _downloaded()
        state = _read(path)
        network = Inception()
        problems = _differences(network, state)
        if problems:
            raise CheckpointError(
                f"{path} is no Inception of FID: {problems}",
                wanted="the conversion of TensorFlow's weights of 2015-12-05, with 1,008 classes",
                fix=f"fetch it from {URL}",
            )
        weights_only = {key: state[key] for key in _wanted(network)}
        network.load_state_dict({**network.state_dict(), **weights_only})
        self.identity = identity_of(self.name, weights_only)
        self._device, self._network = device, network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """(images, 3, height, width) uint8 RGB → features."""
        require_uint8(images)
        x = (resize_like_tensorflow(images.to(self._device).float(), SIDE) - 128) / 128
        network = self._network
        mixed_6 = network.until_mixed_6(x)
        pooled = network.after_mixed_6(mixed_6).mean(dim=(2, 3))
        return Features(
            pooled=pooled,
            spatial=mixed_6[:, :SPATIAL_CHANNELS].flatten(1),  # its first branch is "mixed_6/conv"
            probabilities=F.linear(pooled, network.fc.weight).softmax(dim=1),
        )

    @torch.no_grad()
    def maps(self, images: Tensor) -> Float[Tensor, "images channels rows columns"]:
        """(images, 3, height, width) uint8 RGB, at its own size, at least 43 px a side → "mixed_7"."""
        require_uint8(images)
        require_sides(images, LEAST_SIDE)
        x = (images.to(self._device).float() - 128) / 128
        return self._network.Mixed_6e(self._network.until_mixed_6(x))


def resize_like_tensorflow(images: Float[Tensor, "images 3 height width"], side: int) -> Float[Tensor, "images 3 s s"]:
    """TensorFlow 1's ResizeBilinear to a square: px i comes from i · (in / out), without antialiasing."""
    for axis in (3, 2):  # TensorFlow's order
        length = images.shape[axis]
        source = torch.arange(side, dtype=torch.float32, device=images.device) * (length / side)
        low = source.floor().long().clamp(max=length - 1)
        high = (low + 1).clamp(max=length - 1)
        weight = (source - low).view(-1, 1) if axis == 2 else source - low
        first, second = images.index_select(axis, low), images.index_select(axis, high)
        images = first + (second - first) * weight
    return images


class _Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self, wide: int, out: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | tuple[int, int] = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(wide, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _A(nn.Module):
    """35 × 35: 1×1, 5×5, two 3×3, pool."""

    def __init__(self, wide: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(wide, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = _Conv(wide, 48, 1), _Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Conv(wide, 64, 1), _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, padding=1)
        self.branch_pool = _Conv(wide, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat(
            [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(_average(x))], 1
        )


class _B(nn.Module):
    """35 × 35 → 17 × 17."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3 = _Conv(288, 384, 3, stride=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Conv(288, 64, 1), _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class _C(nn.Module):
    """17 × 17: 1×1, one and two 7×7 in two parts each, pool."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(768, 192, 1)
        self.branch7x7_1 = _Conv(768, inner, 1)
        self.branch7x7_2, self.branch7x7_3 = _row(inner, inner), _column(inner, 192)
        self.branch7x7dbl_1 = _Conv(768, inner, 1)
        self.branch7x7dbl_2, self.branch7x7dbl_3 = _column(inner, inner), _row(inner, inner)
        self.branch7x7dbl_4, self.branch7x7dbl_5 = _column(inner, inner), _row(inner, 192)
        self.branch_pool = _Conv(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_average(x))], 1)


def _row(wide: int, out: int) -> _Conv:
    return _Conv(wide, out, (1, 7), padding=(0, 3))


def _column(wide: int, out: int) -> _Conv:
    return _Conv(wide, out, (7, 1), padding=(3, 0))


class _D(nn.Module):
    """17 × 17 → 8 × 8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = _Conv(768, 192, 1), _Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1, self.branch7x7x3_2 = _Conv(768, 192, 1), _Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3, self.branch7x7x3_4 = _Conv(192, 192, (7, 1), padding=(3, 0)), _Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        long = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), long, F.max_pool2d(x, 3, stride=2)], 1)


class _E(nn.Module):
    """8 × 8: 1×1, one and two 3×3 that end in two directions, pool."""

    def __init__(self, wide: int, *, maximum: bool) -> None:
        super().__init__()
        self._maximum = maximum
        self.branch1x1 = _Conv(wide, 320, 1)
        self.branch3x3_1 = _Conv(wide, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = _directions()
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Conv(wide, 448, 1), _Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = _directions()
        self.branch_pool = _Conv(wide, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self._maximum else _average(x)
        parts = [self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single)]
        return torch.cat(
            [*parts, self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled)], 1
        )


def _directions() -> tuple[_Conv, _Conv]:
    return _Conv(384, 384, (1, 3), padding=(0, 1)), _Conv(384, 384, (3, 1), padding=(1, 0))


class Inception(nn.Module):
    """The layers, in the order of the graph; TensorFlow calls Mixed_5b "mixed", the next ones mixed_1 to mixed_10."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = _Conv(3, 32, 3, stride=2), _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = _Conv(64, 80, 1), _Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _A(192, 32), _A(256, 64), _A(288, 64)
        self.Mixed_6a = _B()
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _C(128), _C(160), _C(160), _C(192)
        self.Mixed_7a = _D()
        self.Mixed_7b, self.Mixed_7c = _E(1280, maximum=False), _E(2048, maximum=True)
        self.fc = nn.Linear(2048, CLASSES)

    def until_mixed_6(self, x: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images 768 rows columns"]:
        """Images, −1 … 1 → the output of "mixed_6", the fourth block at stride 16."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        return self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))

    def after_mixed_6(self, x: Float[Tensor, "images 768 rows columns"]) -> Float[Tensor, "images 2048 h w"]:
        """The output of "mixed_6" → the last map."""
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(self.Mixed_6e(x))))


def _wanted(network: Inception) -> dict[str, Tensor]:
    """The tensors that do something: not batch norms' counters of batches, which the conversion may lack."""
    return {key: value for key, value in network.state_dict().items() if not key.endswith(COUNTER)}


def _differences(network: Inception, state: dict[str, Tensor]) -> str:
    wanted = _wanted(network)
    problems = [f"{key} is missing" for key in wanted if key not in state]
    problems += [
        f"{key} is {tuple(state[key].shape)}, not {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    problems += [f"{key} is not part of it" for key in state if key not in wanted and not key.endswith(COUNTER)]
    return "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        # pickled by those who converted it: nothing but tensors is read
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # it reports damage by many kinds of error
        raise CheckpointError(
            f"{path} cannot be read: {first_line(error)}", wanted="weights, .pth or .safetensors", fix=f"fetch {URL}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} holds no weights", wanted="tensors by their names", fix=f"fetch {URL}")
    return state


def _downloaded() -> Path:
    """The weights, from torch's cache or the web."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / URL.rsplit("/", 1)[1]
    if not path.is_file():
        make_folder(path.parent)
        try:
            torch.hub.download_url_to_file(URL, str(path), hash_prefix=HASH, progress=sys.stderr.isatty())
        except (OSError, HTTPException, RuntimeError) as error:  # the last is another hash
            raise DataError(
                f"the weights of FID's network cannot be downloaded: {first_line(error)}",
                wanted=f"{URL}, once",
                fix="pass the file by --weights, or use --network efficientnet-lite2, which needs no download",
            ) from error
    return path
