"""The U-Net that predicts the noise in a latent, given the timestep and the text.

Rombach et al. 2022 (arXiv:2112.10752), section 3.3. The plan for SD 1.x at 512x512:

    level   side   channels   on the way down                     on the way up
    0       64       320      2 x (residual, transformer), down   3 x (residual, transformer)
    1       32       640      2 x (residual, transformer), down   3 x (residual, transformer), up
    2       16      1280      2 x (residual, transformer), down   3 x (residual, transformer), up
    3        8      1280      2 x  residual                       3 x  residual, up
    middle   8      1280      residual, transformer, residual

Every block on the way down pushes its output on a stack; every residual block on the way up pops one and
concatenates it. Each transformer attends to its own positions, then to the text.
"""

from collections.abc import Callable, Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.config import UNetConfig
from sd_scratch.networks.attention import Attention
from sd_scratch.networks.blocks import DownBlock, MidBlock, UpBlock, stack_widths
from sd_scratch.networks.layers import (
    Conv2d,
    Downsample,
    Linear,
    ResnetBlock,
    TimestepMLP,
    Upsample,
    timestep_embedding,
)
from sd_scratch.tensors import Tapped

RESNET_EPS = 1e-5
TRANSFORMER_EPS = 1e-6  # the GroupNorm in front of each transformer


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

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        channels, heads = config.block_out_channels[level], config.heads(level)
        upcast = config.upcast_attention
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads, upcast=upcast)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, heads, config.cross_attention_dim, upcast=upcast)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = self.tap("resid0", x)
        x = self.tap("resid1", x + self.attn1(self.tap("norm1", self.norm1(x))))
        x = self.tap("resid2", x + self.attn2(self.tap("norm2", self.norm2(x)), context))
        return self.tap("resid3", x + self.ff(self.tap("norm3", self.norm3(x))))


class SpatialTransformer(Tapped):
    """A transformer over all positions of a feature map, between two 1x1 convolutions (in SD 2.x linear
    layers, which differ only in the shape of their weights)."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        channels, groups = config.block_out_channels[level], config.norm_num_groups
        linear = config.use_linear_projection
        self.norm = nn.GroupNorm(groups, channels, eps=TRANSFORMER_EPS)
        self.proj_in = Linear(channels, channels) if linear else Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(config, level)])
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


def down_blocks(config: UNetConfig, time_dim: int) -> Iterator[DownBlock]:
    """The way down, from the finest level to the coarsest, which is not halved."""
    widths, layers, groups = (
        config.block_out_channels,
        config.layers_per_block,
        config.norm_num_groups,
    )
    for level, width in enumerate(widths):
        entering = [widths[max(level - 1, 0)]] + [width] * (layers - 1)
        attends, halves = config.cross_attention[level], level < len(widths) - 1
        yield DownBlock(
            resnets=[ResnetBlock(each, width, groups, RESNET_EPS, time_dim) for each in entering],
            attentions=[SpatialTransformer(config, level) for _ in entering if attends],
            downsamplers=[Downsample(width)] if halves else [],
        )


def mid_block(config: UNetConfig, time_dim: int) -> MidBlock:
    """The coarsest level: residual, transformer, residual."""
    width, groups = config.block_out_channels[-1], config.norm_num_groups
    return MidBlock(
        resnets=[ResnetBlock(width, width, groups, RESNET_EPS, time_dim) for _ in range(2)],
        attentions=[SpatialTransformer(config, len(config.block_out_channels) - 1)],
    )


def up_blocks(config: UNetConfig, time_dim: int) -> Iterator[UpBlock]:
    """The way up, from the coarsest level to the finest. A level pops one tensor more than it has blocks on
    the way down: the level's input."""
    widths, groups = config.block_out_channels, config.norm_num_groups
    stack = stack_widths(widths, config.layers_per_block)
    below = widths[-1]
    for level in reversed(range(len(widths))):
        width = widths[level]
        skips = [stack.pop() for _ in range(config.layers_per_block + 1)]
        entering = [below] + [width] * config.layers_per_block
        yield UpBlock(
            resnets=[
                ResnetBlock(each + skip, width, groups, RESNET_EPS, time_dim)
                for each, skip in zip(entering, skips, strict=True)
            ],
            attentions=[
                SpatialTransformer(config, level) for _ in skips if config.cross_attention[level]
            ],
            upsamplers=[Upsample(width)] if level > 0 else [],
        )
        below = width


class UNet(Tapped):
    """The noisy latent, the timestep and the text to the model's prediction.

    The prediction is eps or v by ``ScheduleConfig.prediction_type``; its tensor is always named `pred`.

    `compiled_call` can hold another implementation of a whole call, (x_t, t, context) -> prediction, which
    returns None for a call that must run here.
    """

    compiled_call: Callable[[Tensor, Tensor, Tensor], Tensor | None] | None = None

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, time_dim = config.block_out_channels, 4 * config.block_out_channels[0]
        self.conv_in = Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepMLP(widths[0], time_dim)
        self.down_blocks = nn.ModuleList(down_blocks(config, time_dim))
        self.mid_block = mid_block(config, time_dim)
        self.up_blocks = nn.ModuleList(up_blocks(config, time_dim))
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], eps=RESNET_EPS)
        self.conv_out = Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        context: Tensor,
        control: Sequence[Tensor] = (),
        features: Sequence[Tensor] = (),
    ) -> Tensor:
        """``x_t`` [B, in_channels, h, w], ``t`` [B] (0..999, may be fractional), ``context``
        [B, tokens, cross_attention_dim] -> prediction [B, out_channels, h, w].

        `control` is added to the stack, tensor by tensor, and its last to the middle's output; each of
        `features` to the last layer's output of a level on the way down.
        """
        if self.compiled_call is not None and not (control or features):
            whole = self.compiled_call(x_t, t, context)
            if whole is not None:
                return whole
        x_t, t, context = self.tap("x", x_t), self.tap("t", t), self.tap("context", context)
        time = timestep_embedding(t, self.config.block_out_channels[0]).to(x_t.dtype)
        time = self.tap("time_embedding", self.time_embedding(self.tap("time_proj", time)))

        h = self.tap("conv_in", self.conv_in(x_t))
        skips = [h]
        features = [self.tap(f"features.{i}", feature) for i, feature in enumerate(features)]
        for i, block in enumerate(self.down_blocks):
            h, left = block(h, time, context, features[i] if features else None)
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
