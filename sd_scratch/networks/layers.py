"""The layers that the U-Net, the autoencoder and the text encoder share.

Pictures and latents are ``[B, C, H, W]``, token sequences ``[B, N, C]``. Attributes carry diffusers'
names.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.networks.tiles import in_tiles
from sd_scratch.tensors import Tapped


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoids of the timestep: ``[B]`` -> ``[B, dim]``, cosines first (Ho et al. 2020, after
    Vaswani et al. 2017, section 3.5)."""
    half = dim // 2
    i = torch.arange(half, device=t.device).float()
    angles = t.float()[:, None] * torch.exp(-math.log(max_period) / half * i)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def in_type(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in the computing type. One that is stored in a narrower type is widened for this call."""
    return weight if weight.dtype == dtype else weight.to(dtype)


def computing_type(network: nn.Module) -> torch.dtype:
    """The computing type of a network: the widest of its parameters, since some may be stored in a narrower
    one."""
    return max((p.dtype for p in network.parameters()), key=lambda dtype: dtype.itemsize)


class Linear(nn.Linear):
    """`nn.Linear`, which can run as a 1x1 convolution over the rows; `sd_scratch.networks.kernels` chooses.
    Without a choice (None) it runs as a product."""

    by_convolution: bool | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.as_convolution(x) if self.by_convolution else self.as_product(x)

    def as_product(self, x: Tensor) -> Tensor:
        return F.linear(x, in_type(self.weight, x.dtype), self.bias)

    def as_convolution(self, x: Tensor) -> Tensor:
        rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # [1, C, rows, 1]
        weight = in_type(self.weight, x.dtype)
        y = F.conv2d(rows, weight.reshape(*weight.shape[:2], 1, 1), self.bias)
        return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, which can pad with the opposite edge instead of zeros, across (`wrap` holds "x"), down
    ("y"), or both. `make_seamless` sets `wrap`.

    With at most `product_cells` cells of output in a batch it runs as a matrix product of its patches: for so
    few, reordering the weights for a convolution takes longer than the convolution. With `tile_cells` or more
    it runs in tiles, unless gradients are needed. `sd_scratch.networks.kernels` sets both."""

    wrap = ""
    product_cells = 0
    tile_cells = 0

    def forward(self, x: Tensor) -> Tensor:
        down, across = cast(tuple[int, int], self.padding)
        cells = len(x) * (x.shape[2] // self.stride[0]) * (x.shape[3] // self.stride[1])
        few = cells <= self.product_cells
        if not (self.wrap or few):
            return self.convolve(x, down)
        x = pad(x, (across, across, down, down), self.wrap)
        return self.as_product(x) if few else self.convolve(x, 0)

    def convolve(self, x: Tensor, padding: int) -> Tensor:
        """The same, with so many cells of zeros on each side."""
        weight = in_type(self.weight, x.dtype)
        if 0 < self.tile_cells <= x[:, 0].numel() and not torch.is_grad_enabled():
            y: Tensor = in_tiles()(x, weight, self.bias, padding)
            return y
        return F.conv2d(x, weight, self.bias, self.stride, padding)

    def as_product(self, x: Tensor) -> Tensor:
        """The same for a padded picture: a row for each cell, with the patch around it."""
        (height, width), (down, across) = self.kernel_size, self.stride
        patches = x.permute(0, 2, 3, 1).unfold(1, height, down).unfold(2, width, across)
        patches = patches.permute(0, 1, 2, 4, 5, 3)  # [B, H, W, height, width, C]
        weight = in_type(self.weight, x.dtype).permute(0, 2, 3, 1).flatten(1)
        return F.linear(patches.flatten(3), weight, self.bias).permute(0, 3, 1, 2)


def pad(x: Tensor, by: tuple[int, int, int, int], wrap: str) -> Tensor:
    """Pad ``[B, C, H, W]`` by so many (left, right, top, bottom): with the opposite edge on the axes in
    `wrap`, else with zeros."""
    across, down = (*by[:2], 0, 0), (0, 0, *by[2:])
    for axis, amounts in (("x", across), ("y", down)):
        if any(amounts):
            x = F.pad(x, amounts, mode="circular" if axis in wrap else "constant")
    return x


def make_seamless(module: nn.Module, wrap: str) -> None:
    """Let every `Conv2d` inside `module` pad with the opposite edge on the axes in `wrap`."""
    for layer in module.modules():
        if isinstance(layer, Conv2d):
            layer.wrap = wrap


def prefer_convolutions(module: nn.Module, prefer: bool | None = True) -> None:
    """Run every `Linear` inside `module` as a convolution, or as a matrix product; None removes the choice."""
    for layer in module.modules():
        if isinstance(layer, Linear):
            layer.by_convolution = prefer


class TimestepMLP(nn.Module):
    """The timestep's sinusoids to the vector that every residual block sees."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear_1 = Linear(in_dim, out_dim)
        self.linear_2 = Linear(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(self.linear_1(x))
        out: Tensor = self.linear_2(hidden)
        return out


class ResnetBlock(Tapped):
    """Two normalised 3x3 convolutions around a skip; the timestep enters between them (Ho et al.
    2020, appendix B). Without `time_dim` (in the autoencoder) there is no timestep."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        eps: float,
        time_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = None if time_dim is None else Linear(time_dim, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.conv_shortcut = None if same else Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        x = self.tap("in", x)
        h = self.tap("norm1", self.norm1(x))
        # By the same name, so that nothing holds the one before: at 512x512 each is 256 MB.
        h = F.silu(h)
        h = self.tap("conv1", self.conv1(h))
        if self.time_emb_proj is not None and time is not None:
            h = h + self.tap("time", self.time_emb_proj(F.silu(time)))[:, :, None, None]
        h = self.tap("norm2", self.norm2(h))
        h = F.silu(h)
        h = self.tap("conv2", self.conv2(h))
        skip = self.tap("skip", x if self.conv_shortcut is None else self.conv_shortcut(x))
        return self.tap("out", skip + h)


class Downsample(Tapped):
    """Halve height and width by a 3x3 convolution with stride 2.

    The U-Net pads all four sides by 1. The autoencoder pads right and bottom only: with any other
    padding its latents are shifted by a fraction of a cell.
    """

    def __init__(self, channels: int, pad_right_bottom_only: bool = False) -> None:
        super().__init__()
        self.pad_right_bottom_only = pad_right_bottom_only
        self.conv = Conv2d(
            channels, channels, 3, stride=2, padding=0 if pad_right_bottom_only else 1
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.pad_right_bottom_only:
            x = pad(x, (0, 1, 0, 1), self.conv.wrap)
        return self.tap("out", self.conv(x))


class Upsample(Tapped):
    """Grow to `size` (height, width; twice the input's by default), nearest neighbour, then a 3x3
    convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        height, width = size or (2 * x.shape[-2], 2 * x.shape[-1])
        return self.tap("out", self.conv(F.interpolate(x, size=(height, width), mode="nearest")))
