"""A small convolutional classifier. Pictures are compared by its last features."""

import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.config import ClassifierConfig
from sd_scratch.tensors import Tapped


class ClassifierBlock(Tapped):
    """Halve the sides after a convolution, then a residual block (He et al. 2015, arXiv:1512.03385)."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm1 = nn.GroupNorm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return self.tap("out", h + F.relu(self.norm2(self.conv2(h))))


class Classifier(Tapped):
    """Pictures to a score for each class."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            ClassifierBlock(a, b, groups)
            for a, b in zip((widths[0], *widths), widths, strict=False)
        )
        self.head = nn.Linear(widths[-1], config.num_classes)

    def features(self, images: Tensor) -> Tensor:
        """``[B, C, S, S]`` in -1..1 -> ``[B, widths[-1]]``: the mean over all positions."""
        h = self.conv_in(images)
        for block in self.blocks:
            h = block(h)
        return self.tap("features", h.mean(dim=(2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        """``[B, C, S, S]`` in -1..1 -> scores ``[B, num_classes]``, before the softmax."""
        return self.tap("scores", self.head(self.features(images)))
