"""Hints for ControlNets, made from pictures."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sd_scratch.errors import UsageError
from sd_scratch.limits import read_number

TAN_22 = 13573  # tan(22.5 degrees) in units of 2^-15, as OpenCV rounds it
Numbers = NDArray[np.int64]
Mask = NDArray[np.bool_]
MOST = 255 * 8  # what |gx| + |gy| can be


def canny(picture: Image.Image, low: float = 100.0, high: float = 200.0) -> Image.Image:
    """White edges on black, as OpenCV's `Canny` finds them in an RGB picture, pixel by pixel.

    Canny 1986: gradients by 3x3 Sobel filters, of the channel where |gx| + |gy| is largest; what is no
    maximum across its edge is left out; edges begin above `high` and go on above `low`. Both are in 0 to
    2040; of two the smaller is `low`.
    """
    low, high = sorted((low, high))
    if not 0 <= low <= high <= MOST:
        raise UsageError(f"edges between {low:g} and {high:g} - both are from 0 to {MOST}")
    image = np.asarray(picture.convert("RGB"), dtype=np.int64)
    gx, gy, size = _gradients(image)
    candidate = (size > int(low)) & _is_peak(gx, gy, size)
    edge = candidate & (size > int(high))
    _follow(edge, candidate)
    return Image.fromarray(edge.astype(np.uint8) * 255).convert("RGB")


def _gradients(image: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Along x, along y, and |gx| + |gy|, each [H, W]; beyond its border the picture goes on as it ends."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")

    def at(y: int, x: int) -> Numbers:
        return _shifted(padded, y, x)

    gx = at(-1, 1) - at(-1, -1) + 2 * (at(0, 1) - at(0, -1)) + at(1, 1) - at(1, -1)
    gy = at(1, -1) - at(-1, -1) + 2 * (at(1, 0) - at(-1, 0)) + at(1, 1) - at(-1, 1)
    size = abs(gx) + abs(gy)
    channel = size.argmax(axis=-1)[..., None]
    gx, gy, size = (np.take_along_axis(a, channel, axis=-1)[..., 0] for a in (gx, gy, size))
    return gx, gy, size


def _is_peak(gx: Numbers, gy: Numbers, size: Numbers) -> Mask:
    """Whether a pixel's gradient is larger than its two neighbours' along it, in one of four directions.
    Of two equal ones the second in reading order stays out."""
    padded = np.pad(size, 1)

    def above(y: int, x: int) -> Mask:
        return size > _shifted(padded, y, x)

    def not_below(y: int, x: int) -> Mask:
        return size >= _shifted(padded, y, x)

    x, y = abs(gx), abs(gy) << 15
    tan_22 = x * TAN_22
    tan_67 = tan_22 + (x << 16)
    falling = above(-1, -1) & above(1, 1)
    rising = above(-1, 1) & above(1, -1)
    diagonal = np.where((gx ^ gy) < 0, rising, falling)
    vertical = np.where(y > tan_67, above(-1, 0) & not_below(1, 0), diagonal)
    peak: Mask = np.where(y < tan_22, above(0, -1) & not_below(0, 1), vertical)
    return peak


def _follow(edge: Mask, candidate: Mask) -> None:
    """Let edges grow, in place, into neighbouring candidates."""
    height, width = edge.shape
    todo = [(int(y), int(x)) for y, x in zip(*np.nonzero(edge), strict=True)]
    while todo:
        y, x = todo.pop()
        for i in range(max(y - 1, 0), min(y + 2, height)):
            for j in range(max(x - 1, 0), min(x + 2, width)):
                if candidate[i, j] and not edge[i, j]:
                    edge[i, j] = True
                    todo.append((i, j))


def _shifted(padded: Numbers, y: int, x: int) -> Numbers:
    """The neighbour at (y, x) of each pixel of an array that has a border of one."""
    return padded[1 + y : padded.shape[0] - 1 + y, 1 + x : padded.shape[1] - 1 + x]


def low_high(text: str) -> tuple[float, float]:
    """``LOW:HIGH`` of `canny`. Raises UsageError for another text."""
    low, _, high = text.partition(":")
    first, second = read_number(low), read_number(high or low)
    if first is None or second is None:
        raise UsageError(f"edges {text[:40]!r} - write LOW:HIGH, such as 100:200")
    return first, second
