"""How a level of a U-Net runs its parts, which are passed to it.

`attentions` has one for each residual block, or none; `downsamplers` and `upsamplers` have one or none.
Attributes have diffusers' names, so single modules are lists, too.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sd_scratch.tensors import Tapped


class DownBlock(nn.Module):
    """One level on the way down. Returns its output and everything that it pushes on the stack."""

    def __init__(
        self,
        resnets: Iterable[nn.Module],
        attentions: Iterable[nn.Module],
        downsamplers: Iterable[nn.Module],
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(attentions)
        self.downsamplers = nn.ModuleList(downsamplers)

    def forward(
        self, h: Tensor, time: Tensor, context: Tensor | None = None, feature: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """`feature` is added to the last layer's output."""
        skips = []
        for i, resnet in enumerate(self.resnets):
            h = resnet(h, time)
            if self.attentions:
                h = self.attentions[i](h, context)
            if feature is not None and i == len(self.resnets) - 1:
                h = h + feature
            skips.append(h)
        for downsample in self.downsamplers:
            h = downsample(h)
            skips.append(h)
        return h, skips


class MidBlock(nn.Module):
    """Between the two ways: residual block, attention, residual block."""

    def __init__(self, resnets: Iterable[nn.Module], attentions: Iterable[nn.Module]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(attentions)

    def forward(
        self, h: Tensor, time: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        h = self.resnets[0](h, time)
        h = self.attentions[0](h, context)
        h = self.resnets[1](h, time)
        return h


class UpBlock(Tapped):
    """One level on the way up. Each residual block pops one tensor from the stack."""

    def __init__(
        self,
        resnets: Iterable[nn.Module],
        attentions: Iterable[nn.Module],
        upsamplers: Iterable[nn.Module],
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(attentions)
        self.upsamplers = nn.ModuleList(upsamplers)

    def forward(
        self, h: Tensor, skips: list[Tensor], time: Tensor, context: Tensor | None = None
    ) -> Tensor:
        for i, resnet in enumerate(self.resnets):
            h = self.tap(f"concat.{i}", torch.cat([h, skips.pop()], dim=1))
            h = resnet(h, time)
            if self.attentions:
                h = self.attentions[i](h, context)
        for upsample in self.upsamplers:
            # The skip decides the size: halving an odd side rounds up, so doubling would overshoot.
            h = upsample(h, (skips[-1].shape[-2], skips[-1].shape[-1]))
        return h


def stack_widths(widths: Sequence[int], layers: int) -> list[int]:
    """The channels of the skips: the first convolution's output, `layers` of each level, and the halved
    output of each level except the last."""
    stack = [widths[0]]
    for level, width in enumerate(widths):
        stack += [width] * (layers + (level < len(widths) - 1))
    return stack
