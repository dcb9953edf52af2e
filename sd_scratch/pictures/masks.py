"""Masks: where a picture is painted anew (white, 1), and where it is kept (black, 0).

Arrays ``[H, W]``, True where it is painted anew.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sd_scratch.errors import UsageError
from sd_scratch.limits import whole
from sd_scratch.pictures.read import picture_in, read_alpha, read_picture

HALF = 128  # of 255: from here on a mask's grey is white, and alpha is opaque

Mask = NDArray[np.bool_]


def read_mask(path: Path) -> Mask:
    """A picture file as a mask: from half grey on it is white, and what is transparent is black.

    Raises ScratchError as `read_picture`.
    """
    return np.asarray(read_picture(path, "black").convert("L")) >= HALF


def mask_in(data: bytes, where: str) -> Mask:
    """The same of a file's bytes; `where` names them in errors."""
    return np.asarray(picture_in(data, where, "black").convert("L")) >= HALF


def read_holes(path: Path) -> Mask:
    """What of a picture file is transparent, by more than half. Raises ScratchError as `read_picture`,
    UsageError where the file has no transparency."""
    alpha = read_alpha(path)
    if alpha is None:
        raise UsageError(f"{path} - has nothing transparent in it - name a mask's file")
    return np.asarray(alpha) < HALF


def resized(mask: Mask, width: int, height: int) -> Mask:
    """A mask of another size; made smaller, a pixel is white where any that it stands for is."""
    if mask.shape == (height, width):
        return mask
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX)) > 0


def mask_cells(mask: Mask, cell: int) -> Tensor:
    """``[1, 1, H/cell, W/cell]`` fp32: 1 for each of the latent's cells with any white in it, so that thin
    strokes count, which the nearest pixel alone would lose."""
    return F.max_pool2d(torch.from_numpy(mask).float()[None, None], cell)


def feathered(mask: Mask, reach: int) -> NDArray[np.float64]:
    """How much of the new picture is seen, 0..1: all of it under the mask, and outside less and less, until
    `reach` pixels away it is none."""
    if whole(reach) is None or not 0 <= reach <= max(mask.shape):
        raise UsageError(f"a feather of {reach} pixels - give 0 to {max(mask.shape)}")
    grow, blur = reach - reach // 2, reach // 2
    weight = torch.from_numpy(mask).double()[None, None]
    weight = F.max_pool2d(weight, 2 * grow + 1, stride=1, padding=grow)
    padded = F.pad(weight, (blur,) * 4, mode="replicate") if blur else weight
    for kernel in ((2 * blur + 1, 1), (1, 2 * blur + 1)):
        # As a sum of whole numbers, so that 0 stays 0 and 1 stays 1.
        padded = F.avg_pool2d(padded, kernel, stride=1, divisor_override=1)
    return (padded / (2 * blur + 1) ** 2)[0, 0].numpy()


def paste(original: Image.Image, new: Image.Image, weight: NDArray[np.float64]) -> Image.Image:
    """The `new` picture where `weight` is 1, the `original`, to the bit, where it is 0. 8-bit RGB."""
    a, b = (np.asarray(picture, dtype=np.float64) for picture in (original, new))
    w = weight[..., None]
    return Image.fromarray(np.rint(a + w * (b - a)).astype(np.uint8))


def region_around(mask: Mask, size: tuple[int, int], padding: int) -> tuple[int, int, int, int]:
    """The part of a picture (left, top, right, bottom) that holds all of the mask and `padding` pixels around it,
    widened to the shape of `size`, width and height, as far as the picture goes; without any white the whole."""
    spans = []
    for axis in (0, 1):
        hit, end = np.flatnonzero(mask.any(axis=axis)), mask.shape[1 - axis]
        low, high = (int(hit[0]), int(hit[-1]) + 1) if len(hit) else (0, end)
        spans.append((max(low - padding, 0), min(high + padding, end)))
    (left, right), (top, bottom) = spans
    width, height = right - left, bottom - top
    if width * size[1] > height * size[0]:
        top, bottom = _widened(top, bottom, width * size[1] // size[0], mask.shape[0])
    else:
        left, right = _widened(left, right, height * size[0] // size[1], mask.shape[1])
    return left, top, right, bottom


def _widened(low: int, high: int, wanted: int, end: int) -> tuple[int, int]:
    more = wanted - (high - low)
    low, high = low - more // 2, high + more - more // 2
    low, high = (low - (high - end), end) if high > end else (low, high)
    return (0, min(high - low, end)) if low < 0 else (low, high)


def placed(original: Image.Image, new: Image.Image, region: Sequence[int]) -> Image.Image:
    """A picture with another one, resized, in the place of a part of it."""
    left, top, right, bottom = region
    whole = original.copy()
    whole.paste(new.resize((right - left, bottom - top), Image.Resampling.LANCZOS), (left, top))
    return whole


def extended(
    picture: Image.Image, mask: Mask | None, margins: Sequence[int]
) -> tuple[Image.Image, Mask]:
    """A picture with margins (left, top, right, bottom) in pixels, and the mask in which they are white."""
    left, top, right, bottom = margins
    size = (picture.width + left + right, picture.height + top + bottom)
    larger = Image.new("RGB", size)
    larger.paste(picture, (left, top))
    white = np.ones((size[1], size[0]), dtype=bool)
    inner = np.zeros((picture.height, picture.width), dtype=bool) if mask is None else mask
    white[top : top + picture.height, left : left + picture.width] = inner
    return larger, white


def filled(picture: Image.Image, mask: Mask) -> Image.Image:
    """A picture whose masked part has the colours around it, ever more blurred further in: the pull and
    push of Gortler et al. 1996 ("The lumigraph", section 3.4.2)."""
    colours = torch.from_numpy(np.array(picture, dtype=np.float32)).permute(2, 0, 1)[None]
    known = torch.from_numpy(~mask).float()[None, None]
    made = _pushed(colours * known, known).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(made[0].permute(1, 2, 0).numpy())


def _pushed(sums: Tensor, weights: Tensor) -> Tensor:
    """Colours where `weights` are 1, and between them those of a picture of half the size. `sums` are
    colours times weights."""
    height, width = sums.shape[-2:]
    if max(height, width) == 1 or bool((weights >= 1).all()):
        return sums / weights.clamp(min=1e-6)
    pad = (0, width % 2, 0, height % 2)
    # Four pixels that are known by halves are known: hence the 4 and the clamp.
    coarse_weights = 4 * F.avg_pool2d(F.pad(weights, pad), 2)
    coarse_sums = 4 * F.avg_pool2d(F.pad(sums, pad), 2)
    scale = coarse_weights.clamp(min=1)
    coarse = _pushed(coarse_sums / scale, coarse_weights / scale)
    size = (height + height % 2, width + width % 2)
    coarse = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return sums + (1 - weights) * coarse[..., :height, :width]
