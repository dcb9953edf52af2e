"""The U-Net that predicts the noise in a latent, given the timestep and the text.

Rombach et al. 2022 (arXiv:2112.10752), section 3.3. The plan for SD 1.x at 512x512:

    level   side   channels   on the way down                     on the way up
    0       64       320      2 x (residual, transformer), down   3 x (residual, transformer)
    1       32       640      2 x (residual, transformer), down   3 x (residual, transformer), up
    2       16      1280      2 x (residual, transformer), down   3 x (residual, transformer), up
    3        8      1280      2 x  residual                       3 x  residual, up
    middle   8      1280      residual, transformer, residual

Every block on the way down leaves its output on a stack; every residual block on the way up takes
one back and concatenates it. Each transformer attends to its own positions, then to the text.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.config import UNetConfig
from sd_scratch.networks.layers import (
    Attention,
    Conv2d,
    Downsample,
    Linear,
    ResnetBlock,
    Upsample,
    timestep_embedding,
)
from sd_scratch.tensors import Tapped

RESNET_EPS = 1e-5
TRANSFORMER_EPS = 1e-6  # the GroupNorm in front of each transformer


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


class GEGLU(nn.Module):
    """Only the projection, so that its weights are named ``net.0.proj`` as in the checkpoints."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = Linear(in_dim, 2 * out_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value, gate


class FeedForward(Tapped):
    """value * GELU(gate), four times as wide inside (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # net.1 is diffusers' dropout: it has no weights, but it holds the index.
        self.net = nn.ModuleList(
            [GEGLU(channels, 4 * channels), nn.Identity(), Linear(4 * channels, channels)]
        )

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.net[0](x)
        value, gate = self.tap("value", value), self.tap("gate", gate)
        act = self.tap("act", value * F.gelu(gate))
        return self.tap("out", self.net[2](act))


class TransformerBlock(Tapped):
    """Self-attention, cross-attention to the text, feed-forward; each normalised before and added."""

    def __init__(self, channels: int, heads: int, context_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, heads, context_dim)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = self.tap("resid0", x)
        x = self.tap("resid1", x + self.attn1(self.tap("norm1", self.norm1(x))))
        x = self.tap("resid2", x + self.attn2(self.tap("norm2", self.norm2(x)), context))
        return self.tap("resid3", x + self.ff(self.tap("norm3", self.norm3(x))))


class SpatialTransformer(Tapped):
    """A transformer over all positions of a feature map, between two 1x1 convolutions (in SD 2.x
    linear layers, which are the same but for the shape of their weights)."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        channels, groups = config.block_out_channels[level], config.norm_num_groups
        heads, context_dim = config.heads(level), config.cross_attention_dim
        linear = config.use_linear_projection
        self.norm = nn.GroupNorm(groups, channels, eps=TRANSFORMER_EPS)
        self.proj_in = Linear(channels, channels) if linear else Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, heads, context_dim)])
        self.proj_out = Linear(channels, channels) if linear else Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        B, C, H, W = x.shape
        x = self.tap("in", x)
        h = self.tap("proj_in", _project(self.proj_in, self.tap("norm", self.norm(x))))
        h = h.flatten(2).transpose(1, 2)  # [B, H*W, C]
        for block in self.transformer_blocks:
            h = block(h, context)
        h = h.transpose(1, 2).reshape(B, C, H, W)
        return self.tap("out", x + self.tap("proj_out", _project(self.proj_out, h)))


def _project(layer: nn.Module, x: Tensor) -> Tensor:
    """A 1x1 convolution, or a linear layer in its place, on ``[B, C, H, W]``."""
    linear = isinstance(layer, Linear)
    out: Tensor = layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if linear else layer(x)
    return out


class DownBlock(nn.Module):
    """One level on the way down. Returns its output and all that it leaves on the stack."""

    def __init__(
        self, config: UNetConfig, in_channels: int, level: int, time_dim: int, last: bool
    ) -> None:
        super().__init__()
        out_channels, groups = config.block_out_channels[level], config.norm_num_groups
        widths = [in_channels] + [out_channels] * config.layers_per_block
        self.resnets = nn.ModuleList(
            [ResnetBlock(a, b, groups, RESNET_EPS, time_dim) for a, b in pairwise(widths)]
        )
        self.attentions = _transformers(config, level, config.layers_per_block)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(out_channels)])

    def forward(self, h: Tensor, time: Tensor, context: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for i, resnet in enumerate(self.resnets):
            h = resnet(h, time)
            if self.attentions:
                h = self.attentions[i](h, context)
            skips.append(h)
        for downsample in self.downsamplers:
            h = downsample(h)
            skips.append(h)
        return h, skips


class MidBlock(nn.Module):
    def __init__(self, config: UNetConfig, time_dim: int) -> None:
        super().__init__()
        width, groups = config.block_out_channels[-1], config.norm_num_groups
        self.resnets = nn.ModuleList(
            [ResnetBlock(width, width, groups, RESNET_EPS, time_dim) for _ in range(2)]
        )
        last = len(config.block_out_channels) - 1
        self.attentions = nn.ModuleList([SpatialTransformer(config, last)])

    def forward(self, h: Tensor, time: Tensor, context: Tensor) -> Tensor:
        h = self.resnets[0](h, time)
        h = self.attentions[0](h, context)
        h = self.resnets[1](h, time)
        return h


class UpBlock(Tapped):
    """One level on the way up; `skip_widths` are the channels that it takes from the stack, in order."""

    def __init__(
        self,
        config: UNetConfig,
        in_channels: int,
        skip_widths: list[int],
        level: int,
        time_dim: int,
        last: bool,
    ) -> None:
        super().__init__()
        out_channels, groups = config.block_out_channels[level], config.norm_num_groups
        widths = [in_channels] + [out_channels] * (len(skip_widths) - 1)
        self.resnets = nn.ModuleList(
            [
                ResnetBlock(a + skip, out_channels, groups, RESNET_EPS, time_dim)
                for a, skip in zip(widths, skip_widths, strict=True)
            ]
        )
        self.attentions = _transformers(config, level, config.layers_per_block + 1)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(out_channels)])

    def forward(self, h: Tensor, skips: list[Tensor], time: Tensor, context: Tensor) -> Tensor:
        for i, resnet in enumerate(self.resnets):
            h = self.tap(f"concat.{i}", torch.cat([h, skips.pop()], dim=1))
            h = resnet(h, time)
            if self.attentions:
                h = self.attentions[i](h, context)
        for upsample in self.upsamplers:
            # The skip decides the size: halving an odd side rounds up, so doubling would overshoot.
            h = upsample(h, (skips[-1].shape[-2], skips[-1].shape[-1]))
        return h


def _transformers(config: UNetConfig, level: int, count: int) -> nn.ModuleList:
    """One transformer for each residual block of a level, or none where the level has no attention."""
    count = count if config.cross_attention[level] else 0
    return nn.ModuleList([SpatialTransformer(config, level) for _ in range(count)])


class UNet(Tapped):
    """The noisy latent, the timestep and the text to the model's prediction.

    The prediction is eps or v, as ``ScheduleConfig.prediction_type`` says; its tensor is named `pred`
    either way.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, levels = config.block_out_channels, len(config.block_out_channels)
        time_dim = 4 * widths[0]
        self.conv_in = Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepMLP(widths[0], time_dim)

        self.down_blocks = nn.ModuleList()
        stack = [widths[0]]  # channels of what the way down leaves for the way up
        for level, width in enumerate(widths):
            last = level == levels - 1
            self.down_blocks.append(DownBlock(config, stack[-1], level, time_dim, last))
            stack += [width] * (config.layers_per_block + (not last))

        self.mid_block = MidBlock(config, time_dim)

        self.up_blocks = nn.ModuleList()
        below = widths[-1]
        for level in reversed(range(levels)):
            skip_widths = [stack.pop() for _ in range(config.layers_per_block + 1)]
            self.up_blocks.append(
                UpBlock(config, below, skip_widths, level, time_dim, last=level == 0)
            )
            below = widths[level]

        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], eps=RESNET_EPS)
        self.conv_out = Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(
        self, x_t: Tensor, t: Tensor, context: Tensor, control: Sequence[Tensor] = ()
    ) -> Tensor:
        """``x_t`` [B, in_channels, h, w], ``t`` [B] (0..999, may be fractional), ``context``
        [B, tokens, cross_attention_dim] -> prediction [B, out_channels, h, w].

        `control` is added to the stack, tensor by tensor, and its last to the middle's output.
        """
        x_t, t, context = self.tap("x", x_t), self.tap("t", t), self.tap("context", context)
        time = timestep_embedding(t, self.config.block_out_channels[0]).to(x_t.dtype)
        time = self.tap("time_embedding", self.time_embedding(self.tap("time_proj", time)))

        h = self.tap("conv_in", self.conv_in(x_t))
        skips = [h]
        for block in self.down_blocks:
            h, left = block(h, time, context)
            skips += left

        h = self.mid_block(h, time, context)
        if control:
            added = [self.tap(f"control.{i}", residual) for i, residual in enumerate(control)]
            skips = [skip + r for skip, r in zip(skips, added[:-1], strict=True)]
            h = h + added[-1]
        h = self.tap("h", h)

        for block in self.up_blocks:
            h = block(h, skips, time, context)
        h = self.tap("norm_out", self.conv_norm_out(h))
        return self.tap("pred", self.conv_out(F.silu(h)))
