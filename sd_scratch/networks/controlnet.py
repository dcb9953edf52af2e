"""ControlNet: a copy of the U-Net's way down that reads a picture and adds residuals to the U-Net.

Zhang et al. 2023 (arXiv:2302.05543), section 3.2. The hint (edges, a pose, depth) is brought down to the
latent's size and added to the first convolution's output. The output of each block goes through a 1x1
convolution that was zero at the start of training, and is added to the U-Net's own skip:

    skip_i <- skip_i + zero_conv_i(copy_i)        h <- h + zero_conv(copy of the middle)
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.config import ControlNetConfig
from sd_scratch.networks.blocks import stack_widths
from sd_scratch.networks.layers import Conv2d, TimestepMLP, timestep_embedding
from sd_scratch.networks.unet import down_blocks, mid_block
from sd_scratch.tensors import Tapped


class HintEncoder(Tapped):
    """A picture [B, 3, 8 h, 8 w] to the U-Net's first width [B, C, h, w]: halved at every other
    convolution."""

    def __init__(self, channels: int, widths: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.conv_in = Conv2d(channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for a, b in pairwise(widths):
            self.blocks.append(Conv2d(a, a, 3, padding=1))
            self.blocks.append(Conv2d(a, b, 3, padding=1, stride=2))
        self.conv_out = Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, hint: Tensor) -> Tensor:
        h = F.silu(self.conv_in(self.tap("hint", hint)))
        for convolution in self.blocks:
            h = F.silu(convolution(h))
        return self.tap("out", self.conv_out(h))


class ControlNet(Tapped):
    """Residuals for the U-Net's skips and middle, from a hint."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        self.config = config
        unet = config.unet
        widths, time_dim = unet.block_out_channels, 4 * unet.block_out_channels[0]
        self.conv_in = Conv2d(unet.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepMLP(widths[0], time_dim)
        self.controlnet_cond_embedding = HintEncoder(
            config.conditioning_channels, config.conditioning_widths, widths[0]
        )
        self.down_blocks = nn.ModuleList(down_blocks(unet, time_dim))
        self.mid_block = mid_block(unet, time_dim)
        self.controlnet_down_blocks = nn.ModuleList(
            [Conv2d(c, c, 1) for c in stack_widths(widths, unet.layers_per_block)]
        )
        self.controlnet_mid_block = Conv2d(widths[-1], widths[-1], 1)

    def forward(self, x_t: Tensor, t: Tensor, context: Tensor, hint: Tensor) -> list[Tensor]:
        """As `UNet.forward`, with ``hint`` [B, 3, 8 h, 8 w], RGB in 0..1 -> one residual for each tensor
        of the U-Net's stack, and the middle's as the last."""
        time = timestep_embedding(t, self.config.unet.block_out_channels[0]).to(x_t.dtype)
        time = self.tap("time_embedding", self.time_embedding(time))
        h = self.conv_in(x_t) + self.controlnet_cond_embedding(hint)
        skips = [self.tap("conv_in", h)]
        for block in self.down_blocks:
            h, left = block(h, time, context)
            skips += left
        h = self.tap("h", self.mid_block(h, time, context))
        residuals = [
            zero(skip) for zero, skip in zip(self.controlnet_down_blocks, skips, strict=True)
        ]
        residuals.append(self.controlnet_mid_block(h))
        return [self.tap(f"residual.{i}", residual) for i, residual in enumerate(residuals)]


def weighted(
    residuals: Sequence[Tensor], strength: float, guess: bool = False, pool: bool = False
) -> list[Tensor]:
    """Residuals times `strength`. In `guess` mode they rise from a tenth to all of it, finest first, for
    pictures from only the hint. `pool` takes each channel's mean over all positions, as shuffle networks were
    trained."""
    count = len(residuals)
    scales = [10.0 ** (i / (count - 1) - 1) if guess and not pool else 1.0 for i in range(count)]
    scaled = [strength * scale * r for scale, r in zip(scales, residuals, strict=True)]
    return [r.mean(dim=(2, 3), keepdim=True) for r in scaled] if pool else scaled


def after_others(residuals: Sequence[Tensor], others: int) -> list[Tensor]:
    """Residuals of a batch's last rows, after zeros for so many other rows."""
    return [torch.cat([r.new_zeros(others, *r.shape[1:]), r]) for r in residuals]
