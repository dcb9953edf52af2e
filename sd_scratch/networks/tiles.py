"""3x3 convolutions with a quarter of the multiplications, in tiles of 4x4 cells.

A convolution multiplies polynomials, and so does interpolation: evaluate both factors at six points, multiply
there, go back. So four outputs of a kernel of three cost 6 multiplications instead of 12; in two dimensions
36 instead of 144, for each pair of channels (Winograd, "Arithmetic Complexity of Computations", 1980; F(4x4,
3x3) of Lavin and Gray 2016, arXiv:1509.09308):

    y = A^T [ (G w G^T) * (B^T x B) ] A           x 6x6, w 3x3, y 4x4; * is elementwise

Over all channels the product becomes 36 matrix products, one for each pair of points, which take most of the
time. The points decide the precision. The usual ones, 0, 1, -1, 2, -2 and infinity, lose a digit. Those here
were found by trying fractions (as in Barabasz et al. 2018, arXiv:1803.10986) and are as precise as direct
summation: both are off by 1e-6 of the numbers' spread in fp32.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

POINTS = (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)  # and infinity
OUT, KERNEL = 4, 3
IN = OUT + KERNEL - 1
PIECE = (
    6 << 20
)  # numbers that are worked on at once, 24 MB in fp32: they should stay in the processor's cache


@functools.cache
def transforms(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """A^T, G and B^T, each for both dimensions at once: ``[16, 36]``, ``[36, 9]`` and ``[36, 36]`` (Toom-Cook)."""
    points = torch.tensor(POINTS, dtype=torch.float64)
    a, g, b = (torch.zeros(IN, n, dtype=torch.float64) for n in (OUT, KERNEL, IN))
    for i, point in enumerate(points):
        others = torch.cat([points[:i], points[i + 1 :]])
        a[i] = point ** torch.arange(OUT)
        g[i] = point ** torch.arange(KERNEL) / (point - others).prod()
        b[i, : IN - 1] = _polynomial(others)
    a[-1, -1] = g[-1, -1] = 1  # at infinity a polynomial is its highest coefficient
    b[-1] = _polynomial(points)
    a, g, b = (torch.kron(matrix, matrix).to(dtype) for matrix in (a.T, g, b))
    return a, g, b


def _polynomial(roots: Tensor) -> Tensor:
    """The coefficients of the product of all (x - root), lowest first."""
    p = torch.ones(1, dtype=roots.dtype)
    for root in roots:
        p = F.pad(p, (1, 0)) - root * F.pad(p, (0, 1))
    return p


@torch.no_grad()
def convolve_in_tiles(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int = 1) -> Tensor:
    """`F.conv2d` of ``[B, C, H, W]`` with a 3x3 kernel and stride 1. The result is channels-last and has no
    gradient."""
    a, g, b = transforms(x.dtype)
    (images, channels, *sides), outputs = x.shape, len(weight)
    height, width = (side + 2 * padding - KERNEL + 1 for side in sides)
    down, across = -(-height // OUT), -(-width // OUT)  # tiles
    x = x.permute(0, 2, 3, 1)
    y = x.new_empty(images, down, OUT, across, OUT, outputs)

    kernels = weight.permute(0, 2, 3, 1).flatten(1, 2)  # [O, 9, C]
    step = max(16, PIECE // (IN * IN * channels))
    blocks = [slice(i, i + step) for i in range(0, outputs, step)]
    rows = max(1, step // (images * across))
    # If all tiles are one piece, each block of kernels is used once and need not be kept.
    kept = [torch.matmul(g, kernels[block]) for block in blocks] if rows < down else []
    for row in range(0, down, rows):
        tiles = cut(x, padding, row, min(rows, down - row), across)  # [36, tiles, C]
        values = (b @ tiles.flatten(1)).view_as(tiles)
        for i, block in enumerate(blocks):
            kernel = kept[i] if kept else torch.matmul(g, kernels[block])  # [O, 36, C]
            products = torch.bmm(values, kernel.permute(1, 2, 0))  # [36, tiles, O]
            place = y[:, row : row + rows, ..., block]
            part = (a @ products.flatten(1)).view(OUT, OUT, images, -1, across, place.shape[-1])
            part = part.permute(2, 3, 0, 4, 1, 5)
            place.copy_(part if bias is None else part + bias[block])
    y = y.view(images, down * OUT, across * OUT, outputs)[:, :height, :width]
    return y.contiguous().permute(0, 3, 1, 2)


@functools.cache
def in_tiles() -> Any:
    """`convolve_in_tiles` as an operator of PyTorch, made at the first call: compiled graphs call it as it is, and
    tensors without numbers only pass their shapes through it."""
    name = "sd_scratch::convolve_in_tiles"
    torch.library.define(name, "(Tensor x, Tensor weight, Tensor? bias, int padding) -> Tensor")
    torch.library.impl(name, "cpu", convolve_in_tiles)
    torch.library.register_fake(name, _empty_result)
    return torch.ops.sd_scratch.convolve_in_tiles


def _empty_result(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    height, width = (side + 2 * padding - KERNEL + 1 for side in x.shape[2:])
    return x.new_empty(len(x), height, width, len(weight)).permute(0, 3, 1, 2)


def cut(x: Tensor, padding: int, row: int, rows: int, across: int) -> Tensor:
    """So many rows of tiles from ``[B, H, W, C]``, from `row` on, each of 6x6 cells, of which two are the next one's,
    too: ``[36, B * rows * across, C]``. Around the picture there are zeros."""
    (images, height, width, channels), first = x.shape, OUT * row - padding
    last = first + OUT * rows + KERNEL - 1
    above, below = max(-first, 0), max(last - height, 0)
    right = OUT * across + KERNEL - 1 - width - padding
    x = F.pad(x[:, first + above : last - below], (0, 0, padding, right, above, below)).contiguous()
    by_image, by_row, by_cell, _ = x.stride()
    size = (IN, IN, images, rows, across, channels)
    steps = (by_row, by_cell, by_image, OUT * by_row, OUT * by_cell, 1)
    return x.as_strided(size, steps).reshape(IN * IN, -1, channels)
