"""The autoencoder in strips of rows: the same picture or latent in half the memory, without seams.

Nothing overlaps and nothing is blended. A norm's mean and variance are summed over all strips before any is
computed, and a convolution's strip reads one row more above and below, so the result is the whole network's
up to rounding. Feature maps between convolutions are held whole; their normalised, activated, enlarged and
padded copies are not. Pictures of a batch are processed one by one.
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


def in_strips(network: Any, x: Tensor) -> Tensor:
    """The output of the autoencoder's encoder for ``[B, 3, H, W]``, or of its decoder for ``[B, 4, h, w]``."""
    return torch.cat([_one(network, x[i : i + 1]) for i in range(len(x))])


def _one(network: Any, x: Tensor) -> Tensor:
    h = network.conv_in(x)
    decodes = hasattr(network, "up_blocks")
    if decodes:
        h = network.mid_block(h)
    for block in network.up_blocks if decodes else network.down_blocks:
        for layer in (layer for group in block.children() for layer in group):
            if isinstance(layer, ResnetBlock):
                h = _resnet(layer, h)
            elif isinstance(layer, Upsample):
                h = _upsample(layer, h)
            else:
                h = _convolve(layer.conv, _rows_of(h), h.shape[2:])
    if not decodes:
        h = network.mid_block(h)
    return _convolve(network.conv_out, _activated(network.conv_norm_out, h), h.shape[2:])


def _rows_of(x: Tensor) -> Rows:
    return lambda a, b: x[:, :, a:b]


def _resnet(block: ResnetBlock, x: Tensor) -> Tensor:
    h = _convolve(block.conv1, _activated(block.norm1, x), x.shape[2:])
    h = _convolve(block.conv2, _activated(block.norm2, h), x.shape[2:])
    shortcut = block.conv_shortcut
    for a, b in _strips(x):
        rows = x[:, :, a:b]
        h[:, :, a:b] += rows if shortcut is None else shortcut(rows)
    return h


def _upsample(layer: Upsample, x: Tensor) -> Tensor:
    """Rows of the enlarged picture, every row of `x` twice, computed as they are read."""
    height, width = 2 * x.shape[2], 2 * x.shape[3]

    def rows(a: int, b: int) -> Tensor:
        low, high = a // 2, (b + 1) // 2
        size = (2 * (high - low), width)
        large = F.interpolate(x[:, :, low:high], size=size, mode="nearest")
        return large[:, :, a - 2 * low : b - 2 * low]

    return _convolve(layer.conv, rows, torch.Size((height, width)))


def _activated(norm: nn.GroupNorm, x: Tensor) -> Rows:
    """silu(norm(x)), by rows."""
    scale, shift = _affine(norm, x)

    def rows(a: int, b: int) -> Tensor:
        return F.silu(torch.addcmul(shift, x[:, :, a:b], scale))

    return rows


def _affine(norm: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """The factor and the offset of each channel, ``[1, C, 1, 1]``; sums are in fp64."""
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


def _convolve(layer: Conv2d, rows: Rows, size: torch.Size) -> Tensor:
    """A 3x3 convolution of a feature map of `size`, given by its rows. It keeps the size; with stride 2 it is
    the encoder's, padded right and below only."""
    height, width = size
    stride = layer.stride[0]
    before = 1 if stride == 1 else 0
    channels = max(layer.in_channels, layer.out_channels)
    out: Tensor | None = None
    for a, b in _cut(height // stride, channels * width):
        first, last = a * stride - before, (b - 1) * stride - before + 3
        read = rows(max(first, 0), min(last, height))
        edges = [int(first < 0), int(last > height)]
        if "y" in layer.wrap:
            above = [rows(height - 1, height)] if first < 0 else []
            below = [rows(0, 1)] if last > height else []
            read, edges = torch.cat([*above, read, *below], dim=2), [0, 0]
        read = pad(read, (before, 1, edges[0], edges[1]), layer.wrap)
        part = layer.convolve(read, 0)
        if out is None:
            last = part.is_contiguous(memory_format=torch.channels_last)
            order = torch.channels_last if last else torch.contiguous_format
            shape = (1, layer.out_channels, height // stride, width // stride)
            out = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=order)
        out[:, :, a:b] = part
    return cast(Tensor, out)


def _strips(x: Tensor) -> list[tuple[int, int]]:
    return _cut(x.shape[2], x.shape[1] * x.shape[3])


def _cut(height: int, row: int) -> list[tuple[int, int]]:
    """The first and last row of each strip, if a row has so many numbers."""
    step = max(1, STRIP // row)
    return [(a, min(a + step, height)) for a in range(0, height, step)]
