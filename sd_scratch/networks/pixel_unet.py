"""A class-conditional residual U-Net that denoises small pictures.

Ho et al. 2020 (arXiv:2006.11239), appendix B, with time and class entering every block as a scale and
a shift (Nichol and Dhariwal 2021, arXiv:2102.09672, section 2). The plan for 28x28 pixels:

    level   side   channels   on the way down               on the way up
    0       28     24         1 x  residual, down           2 x  residual
    1       14     48         1 x  residual, down           2 x  residual, up
    2        7     96         1 x (residual, attention)     2 x (residual, attention), up
    middle   7     96         residual, attention, residual

Attributes have the names of diffusers' `UNet2DModel`, which loads the weights.
"""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.config import PixelUNetConfig
from sd_scratch.networks.attention import Attention
from sd_scratch.networks.blocks import DownBlock, MidBlock, UpBlock, stack_widths
from sd_scratch.networks.layers import Downsample, Linear, TimestepMLP, Upsample, timestep_embedding
from sd_scratch.tensors import Tapped

EPS = 1e-5


class FilmBlock(Tapped):
    """Two normalised 3x3 convolutions around a skip; between them h <- h (1 + scale) + shift, with
    scale and shift computed from time and class."""

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, time_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = Linear(time_dim, 2 * out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.conv_shortcut = None if same else nn.Conv2d(in_channels, out_channels, 1)
        start_at_zero(self.conv2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.tap("in", x)
        h = self.tap("norm1", self.norm1(x))
        h = self.tap("conv1", self.conv1(F.silu(h)))
        scale, shift = self.time_emb_proj(F.silu(time))[:, :, None, None].chunk(2, dim=1)
        scale, shift = self.tap("scale", scale), self.tap("shift", shift)
        h = self.tap("norm2", self.norm2(h) * (1 + scale) + shift)
        h = F.dropout(F.silu(h), self.dropout, self.training)
        h = self.tap("conv2", self.conv2(h))
        skip = self.tap("skip", x if self.conv_shortcut is None else self.conv_shortcut(x))
        return self.tap("out", skip + h)


class PixelAttention(Attention):
    """Self-attention over all positions of a feature map, normalised before and added."""

    def __init__(self, channels: int, head_dim: int, groups: int) -> None:
        super().__init__(channels, max(1, channels // head_dim), bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, eps=EPS)
        start_at_zero(self.output)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        B, C, H, W = x.shape
        rows = self.group_norm(x).flatten(2).transpose(1, 2)  # [B, H*W, C]
        out = super().forward(rows, context)
        return x + out.transpose(1, 2).reshape(B, C, H, W)


class PixelUNet(Tapped):
    """x_t, timestep and class to the prediction, eps or v by the schedule's configuration; its tensor is
    always named `pred`. Class number `num_classes` means no class."""

    def __init__(self, config: PixelUNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, time_dim = config.block_out_channels, 4 * config.block_out_channels[0]
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepMLP(widths[0], time_dim)
        self.class_embedding = nn.Embedding(config.num_classes + 1, time_dim)
        self.down_blocks = nn.ModuleList(_down_blocks(config, time_dim))
        self.mid_block = _mid_block(config, time_dim)
        self.up_blocks = nn.ModuleList(_up_blocks(config, time_dim))
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], eps=EPS)
        self.conv_out = nn.Conv2d(widths[0], config.in_channels, 3, padding=1)
        start_at_zero(self.conv_out)

    def forward(self, x_t: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        """``x_t`` [B, in_channels, S, S], ``t`` [B] (0..999, may be fractional), ``classes`` [B]
        int64 (0..num_classes) -> prediction, shaped like ``x_t``."""
        x_t, t = self.tap("x", x_t), self.tap("t", t)
        time = timestep_embedding(t, self.config.block_out_channels[0]).to(x_t.dtype)
        time = self.tap("time_embedding", self.time_embedding(self.tap("time_proj", time)))
        time = time + self.tap("class_embedding", self.class_embedding(classes))

        h = self.tap("conv_in", self.conv_in(x_t))
        skips = [h]
        for block in self.down_blocks:
            h, left = block(h, time)
            skips += left

        h = self.tap("h", self.mid_block(h, time))

        for block in self.up_blocks:
            h = block(h, skips, time)
        h = self.tap("norm_out", self.conv_norm_out(h))
        return self.tap("pred", self.conv_out(F.silu(h)))


def start_at_zero(layer: nn.Conv2d | nn.Linear) -> None:
    """Start a residual branch at zero: the network begins simple and learns what to add."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _down_blocks(config: PixelUNetConfig, time_dim: int) -> Iterator[DownBlock]:
    widths, layers = config.block_out_channels, config.layers_per_block
    for level, width in enumerate(widths):
        entering = [widths[max(level - 1, 0)]] + [width] * (layers - 1)
        attends, halves = config.attention[level], level < len(widths) - 1
        yield DownBlock(
            resnets=[_residual(config, each, width, time_dim) for each in entering],
            attentions=[_attention(config, width) for _ in entering if attends],
            downsamplers=[Downsample(width)] if halves else [],
        )


def _mid_block(config: PixelUNetConfig, time_dim: int) -> MidBlock:
    width = config.block_out_channels[-1]
    return MidBlock(
        resnets=[_residual(config, width, width, time_dim) for _ in range(2)],
        attentions=[_attention(config, width)],
    )


def _up_blocks(config: PixelUNetConfig, time_dim: int) -> Iterator[UpBlock]:
    widths, layers = config.block_out_channels, config.layers_per_block
    stack = stack_widths(widths, layers)
    below = widths[-1]
    for level in reversed(range(len(widths))):
        width = widths[level]
        entering = [below] + [width] * layers
        yield UpBlock(
            resnets=[_residual(config, each + stack.pop(), width, time_dim) for each in entering],
            attentions=[_attention(config, width) for _ in entering if config.attention[level]],
            upsamplers=[Upsample(width)] if level > 0 else [],
        )
        below = width


def _residual(
    config: PixelUNetConfig, in_channels: int, out_channels: int, time_dim: int
) -> FilmBlock:
    return FilmBlock(in_channels, out_channels, config.norm_num_groups, time_dim, config.dropout)


def _attention(config: PixelUNetConfig, width: int) -> PixelAttention:
    return PixelAttention(width, config.attention_head_dim, config.norm_num_groups)
