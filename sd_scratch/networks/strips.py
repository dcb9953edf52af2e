"""The autoencoder's decoder in strips of rows: the same picture in half the memory, without seams.

Nothing overlaps and nothing is blended. A norm's mean and variance are summed over all strips before any is
computed, and a convolution's strip reads one row more above and below, so that the picture is the whole
decoder's up to rounding. What is held whole are the feature maps between convolutions; what is not are their
normalised, activated, enlarged and padded copies. Pictures of a batch are decoded one after the other.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.networks.layers import Conv2d, ResnetBlock, Upsample, pad

STRIP = 1 << 22  # numbers of a strip, 16 MB in fp32

Rows = Callable[[int, int], Tensor]
"""The rows from one to another of a feature map ``[1, C, H, W]`` that is not held."""


def decode_in_strips(decoder: Any, h: Tensor) -> Tensor:
    """What the autoencoder's ``decoder(h)`` is, ``[B, 4, h, w]`` -> ``[B, 3, H, W]``."""
    return torch.cat([_decode_one(decoder, h[i : i + 1]) for i in range(len(h))])


def _decode_one(decoder: Any, h: Tensor) -> Tensor:
    h = decoder.mid_block(decoder.conv_in(h))
    for block in decoder.up_blocks:
        for layer in (*_inside(block, "resnets"), *_inside(block, "upsamplers")):
            h = _resnet(layer, h) if isinstance(layer, ResnetBlock) else _upsample(layer, h)
    return _convolve(decoder.conv_out, _activated(decoder.conv_norm_out, h), h.shape[2:])


def _inside(block: nn.Module, name: str) -> list[nn.Module]:
    return list(cast(nn.ModuleList, getattr(block, name)))


def _resnet(block: ResnetBlock, x: Tensor) -> Tensor:
    h = _convolve(block.conv1, _activated(block.norm1, x), x.shape[2:])
    h = _convolve(block.conv2, _activated(block.norm2, h), x.shape[2:])
    shortcut = block.conv_shortcut
    for a, b in _strips(x):
        rows = x[:, :, a:b]
        h[:, :, a:b] += rows if shortcut is None else shortcut(rows)
    return h


def _upsample(layer: nn.Module, x: Tensor) -> Tensor:
    """Rows of the enlarged picture, each of which is every row of `x` twice, are made as they are read."""
    height, width = 2 * x.shape[2], 2 * x.shape[3]

    def rows(a: int, b: int) -> Tensor:
        low, high = a // 2, (b + 1) // 2
        size = (2 * (high - low), width)
        large = F.interpolate(x[:, :, low:high], size=size, mode="nearest")
        return large[:, :, a - 2 * low : b - 2 * low]

    return _convolve(cast(Upsample, layer).conv, rows, torch.Size((height, width)))


def _activated(norm: nn.GroupNorm, x: Tensor) -> Rows:
    """silu(norm(x)), by rows."""
    scale, shift = _affine(norm, x)

    def rows(a: int, b: int) -> Tensor:
        return F.silu(torch.addcmul(shift, x[:, :, a:b], scale))

    return rows


def _affine(norm: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """What each channel is multiplied by, and what is added, ``[1, C, 1, 1]``; sums are in fp64."""
    total = torch.zeros(2, norm.num_groups, dtype=torch.float64, device=x.device)
    for a, b in _strips(x):
        rows = x[:, :, a:b].double().reshape(norm.num_groups, -1)
        total += torch.stack([rows.sum(dim=1), rows.square().sum(dim=1)])
    mean, square = total / (x.numel() // norm.num_groups)
    deviation = (square - mean.square()).clamp(min=0).add(norm.eps).sqrt()
    each = x.shape[1] // norm.num_groups
    scale = norm.weight.double() / deviation.repeat_interleave(each)
    shift = norm.bias.double() - mean.repeat_interleave(each) * scale
    return scale.to(x.dtype)[None, :, None, None], shift.to(x.dtype)[None, :, None, None]


def _convolve(layer: nn.Conv2d, rows: Rows, size: torch.Size) -> Tensor:
    """A 3x3 convolution of a feature map of `size` that is given by its rows."""
    height, width = size
    channels = max(layer.in_channels, layer.out_channels)
    wrap = layer.wrap if isinstance(layer, Conv2d) else ""
    out: Tensor | None = None
    for a, b in _cut(height, channels * width):
        read = rows(max(a - 1, 0), min(b + 1, height))
        edges = [int(a == 0), int(b == height)]
        if "y" in wrap:
            above = [rows(height - 1, height)] if a == 0 else []
            below = [rows(0, 1)] if b == height else []
            read, edges = torch.cat([*above, read, *below], dim=2), [0, 0]
        read = pad(read, (1, 1, edges[0], edges[1]), wrap)
        part = F.conv2d(read, layer.weight, layer.bias)
        if out is None:
            last = part.is_contiguous(memory_format=torch.channels_last)
            order = torch.channels_last if last else torch.contiguous_format
            shape = (1, layer.out_channels, height, width)
            out = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=order)
        out[:, :, a:b] = part
    return cast(Tensor, out)


def _strips(x: Tensor) -> list[tuple[int, int]]:
    return _cut(x.shape[2], x.shape[1] * x.shape[3])


def _cut(height: int, row: int) -> list[tuple[int, int]]:
    """From which row to which each strip goes, where a row has so many numbers."""
    step = max(1, STRIP // row)
    return [(a, min(a + step, height)) for a in range(0, height, step)]
