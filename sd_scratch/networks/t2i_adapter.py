"""T2I-Adapter: a small network that reads only a hint, and adds feature maps to the U-Net's way down.

Mou et al. 2023 (arXiv:2302.08453), section 3.3. The hint's cells of 8 by 8 pixels become channels. Each level
of the U-Net gets one feature map, added to the output of its last layer:

    F_enc^i <- F_enc^i + omega * F_c^i

It depends neither on the timestep nor on the prompt, so it runs once a run.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.config import T2IAdapterConfig
from sd_scratch.networks.layers import Conv2d
from sd_scratch.tensors import Tapped


class AdapterResnet(nn.Module):
    """A residual block without norms: 3x3, ReLU, 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block1 = Conv2d(channels, channels, 3, padding=1)
        self.block2 = Conv2d(channels, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.block2(F.relu(self.block1(h)))
        return out


class AdapterBlock(nn.Module):
    """One level: a 1x1 convolution if the width changes, then residual blocks."""

    def __init__(self, entering: int, width: int, layers: int) -> None:
        super().__init__()
        self.in_conv = Conv2d(entering, width, 1) if entering != width else nn.Identity()
        self.resnets = nn.ModuleList([AdapterResnet(width) for _ in range(layers)])

    def forward(self, h: Tensor) -> Tensor:
        h = self.in_conv(h)
        for resnet in self.resnets:
            h = resnet(h)
        return h


class T2IAdapter(Tapped):
    """A hint [B, c, 8 h, 8 w] in 0..1 to one feature map for each level of the U-Net, [B, C, h, w] and
    halved from level to level."""

    stepwise = branched = False

    def __init__(self, config: T2IAdapterConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        channels = config.conditioning_channels * config.cell**2
        self.conv_in = Conv2d(channels, widths[0], 3, padding=1)
        self.body = nn.ModuleList(
            AdapterBlock(widths[max(level - 1, 0)], width, config.layers_per_block)
            for level, width in enumerate(widths)
        )

    def forward(self, hint: Tensor) -> list[Tensor]:
        h = self.conv_in(F.pixel_unshuffle(self.tap("hint", hint), self.config.cell))
        features = []
        for level, block in enumerate(self.body):
            h = block(h if level == 0 else F.avg_pool2d(h, 2, ceil_mode=True))
            h = self.tap(f"feature.{level}", h)
            features.append(h)
        return features
