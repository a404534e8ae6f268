"""Patterns in pictures that known failures leave: content at the border, repetition, a wrong spectrum."""

import math

import numpy as np
import torch
from PIL import Image

from ..shapes import Float, Tensor

BACKGROUND = 40  # levels of 255 that a colour may lie off the background's and still be it
TOUCHED = 0.05  # share of a side's length that content covers where it touches
BANDS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # cycles per px, octave by octave
LEAST_OVERLAP = 0.25  # of a picture with itself when shifted: less says little
TILING_PX = 256
SHORTEST_LAG = 6  # px: nearer repetitions are texture, or a token's grid


def border_contact(pixels: np.ndarray) -> np.ndarray:
    """Whether content touches the top, right, bottom, left border, (4,) bool.

    The background is the colour most frequent along the border; content is what lies clearly off it. Cut-outs with room
    around them touch no side, photographs touch all four, and a crop of a cut-out touches the sides that it cut.

    Args:
        pixels: (height, width, 3) uint8.
    """
    deep = max(1, min(pixels.shape[:2]) // 64)  # mean over some px, against noise
    values = pixels.astype(np.float64)
    sides = [values[:deep].mean(axis=0), values[:, -deep:].mean(axis=1), values[-deep:].mean(axis=0)]
    sides.append(values[:, :deep].mean(axis=1))
    ring = np.concatenate(sides)
    # the colour with most others near it, among some of the border's own
    candidates = ring[:: max(1, len(ring) // 128)]
    near = (np.abs(ring[:, None] - candidates[None]).max(axis=2) < BACKGROUND).sum(axis=0)
    background = candidates[near.argmax()]
    return np.array([(np.abs(side - background).max(axis=1) >= BACKGROUND).mean() > TOUCHED for side in sides])


def spectrum(pixels: np.ndarray) -> np.ndarray:
    """log₁₀ of the mean power of the luminance in each octave of `BANDS`, (bands,); NaN where a picture is too small.

    White noise is flat, natural pictures fall by about two powers of the frequency; powers are a px's, so that pictures
    of different sizes compare.

    Args:
        pixels: (height, width, 3) uint8.
    """
    x = _luminance(pixels)
    window = np.outer(np.hanning(x.shape[0] + 2)[1:-1], np.hanning(x.shape[1] + 2)[1:-1])
    power = np.abs(np.fft.rfft2((x - x.mean()) * window)) ** 2 / np.square(window).sum()
    rows, columns = np.fft.fftfreq(x.shape[0])[:, None], np.fft.rfftfreq(x.shape[1])[None]
    frequency = np.hypot(rows, columns)
    band = np.digitize(frequency, BANDS) - 1
    found = np.full(len(BANDS) - 1, np.nan)
    for number in range(len(found)):
        inside = power[band == number]
        if len(inside) >= 4:
            found[number] = np.log10(inside.mean() + 1e-8)  # of levels 0 … 1: far below one level in 255
    return found


def tiling(pixels: np.ndarray) -> float:
    """How strongly a picture repeats itself at any shift, 0 to 1: the highest peak of its autocorrelation.

    Slow changes are taken off first, so that gradients and large forms do not count; a peak counts by its height over
    its surroundings, and by the overlap's own spread, so that a picture tiled once reaches 1.

    Args:
        pixels: (height, width, 3) uint8.
    """
    x = _luminance(_reduced(pixels))
    height, width = x.shape
    x = x - _blurred(x, max(4, min(height, width) // 8))
    shape = (2 * height, 2 * width)

    def correlated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Σ a(p)·b(p + d) for each shift d, down and to either side."""
        return np.fft.irfft2(np.conj(np.fft.rfft2(a, shape)) * np.fft.rfft2(b, shape), shape)

    ones = np.ones_like(x)
    over_rows, over_columns = (n - np.abs(np.fft.fftfreq(2 * n, 1 / (2 * n))) for n in (height, width))
    overlap = np.outer(over_rows, over_columns)
    energy = correlated(np.square(x), ones) * correlated(ones, np.square(x))
    least = max(SHORTEST_LAG, min(height, width) // 12)
    far = np.maximum((height - over_rows)[:, None], (width - over_columns)[None]) >= least
    allowed = far & (overlap >= LEAST_OVERLAP * height * width)
    # a flat overlap has no pattern; rounding would make one
    solid = energy > np.square(1e-4 * overlap)
    similar = np.where(solid, correlated(x, x) / np.sqrt(np.where(solid, energy, 1)), 0)
    peaks = similar - _blurred(similar, least // 2, wrap=True)
    return float(np.clip(peaks[allowed].max(initial=0), 0, 1))


def duplication(maps: Float[Tensor, "channels rows columns"], shift: int) -> float:
    """How much more alike an image's features are at a shift than at shifts nearby, along the better of its axes.

    Cosine similarity of features less their mean over the image, taken over all positions that overlap; of the shift,
    less the mean of shifts a quarter shorter and longer. About 0 in an image that does not repeat, whatever its
    texture; up to 1 and more where objects repeat at that very shift.

    Args:
        maps: features of an image at its own size.
        shift: positions, of the side of training.
    """
    values = maps.cpu().numpy().astype(np.float64)
    centred = values - values.mean(axis=(1, 2), keepdims=True)
    aside = max(1, round(shift / 4))
    found = [
        _similarity(axis, shift) - (_similarity(axis, shift - aside) + _similarity(axis, shift + aside)) / 2
        for axis in (centred, centred.transpose(0, 2, 1))
        if axis.shape[2] >= 1.5 * shift  # otherwise there is no room for two
    ]
    return max(found, default=0.0)


def _similarity(maps: np.ndarray, columns: int) -> float:
    a, b = maps[:, :, : maps.shape[2] - columns], maps[:, :, columns:]
    scale = math.sqrt(np.square(a).sum() * np.square(b).sum())
    return float((a * b).sum() / scale) if scale > 0 else 0.0


def _reduced(pixels: np.ndarray) -> np.ndarray:
    """At most `TILING_PX` on its longer side: repetition that matters is coarser than that."""
    image = Image.fromarray(pixels)
    image.thumbnail((TILING_PX, TILING_PX), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _luminance(pixels: np.ndarray) -> np.ndarray:
    """(height, width) of 0 … 1, by ITU-R BT.601."""
    return pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255


def _blurred(x: np.ndarray, radius: int, *, wrap: bool = False) -> np.ndarray:
    """A mean over squares of 2·radius + 1, of what of them lies inside, or wrapped around."""
    for axis in (0, 1):
        length = x.shape[axis]
        near = min(radius, length - 1)
        if wrap:
            x = np.concatenate([np.take(x, range(length - near, length), axis), x, np.take(x, range(near), axis)], axis)
        sums = np.concatenate([np.zeros_like(np.take(x, [0], axis)), np.cumsum(x, axis=axis)], axis)
        start = np.arange(length) if wrap else np.maximum(np.arange(length) - near, 0)
        end = np.arange(length) + 2 * near + 1 if wrap else np.minimum(np.arange(length) + near + 1, length)
        counts = (end - start).reshape((-1, 1) if axis == 0 else (1, -1))
        x = (np.take(sums, end, axis) - np.take(sums, start, axis)) / counts
    return x


def enlarged_for_maps(pixels: np.ndarray, trained: int, map_px: int, positions: int) -> tuple[Tensor, int]:
    """A picture as (1, 3, height, width) uint8, resized so that the side of training is a whole number of positions.

    Args:
        pixels: (height, width, 3) uint8.
        trained: px of the side of training.
        map_px: px a position.
        positions: least number of them, since coarser shifts would not be told apart.

    Returns:
        The picture, and the positions that the side of training has.
    """
    shift = max(positions, round(trained / map_px))
    factor = shift * map_px / trained
    height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    if (height, width) != pixels.shape[:2]:
        image = torch.nn.functional.interpolate(image.float(), (height, width), mode="bicubic", antialias=True)
        image = image.round().clamp(0, 255).to(torch.uint8)
    return image, shift
