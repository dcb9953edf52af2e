"""Listeners that keep named tensors of some calls and replace named tensors in others."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sd_scratch.networks.unet import UNet
from sd_scratch.pipeline.fast.merge import Match
from sd_scratch.pipeline.fast.shallow import keep
from sd_scratch.tensors import TensorInfo
from sd_scratch.tensors.taps import Member


class Listening(Member):
    """Listens to named tensors of single calls; one of a model's `Taps`."""

    on_path = True

    def __init__(self, *names: str) -> None:
        self.names: Mapping[str, TensorInfo] = {name: _info(name) for name in names}


def _info(name: str) -> TensorInfo:
    """The part of it that tells where it is made."""
    leaf = ".".join(name.rsplit(".", 2)[-2:]) if ".concat." in name else name.rpartition(".")[2]
    return TensorInfo(name, leaf, (), (), torch.float32)


class KeepBelow(Listening):
    """Keeps what enters the first layer that shallow calls compute, without its skip."""

    def __init__(
        self,
        unet: UNet,
        first: int,
        kept: dict[str, dict[int, Tensor]],
        branches: tuple[str, ...],
        call: int,
        order: int,
    ) -> None:
        widths = unet.config.block_out_channels
        super().__init__(f"unet.up_blocks.{len(widths) - 1}.concat.{first}")
        self.width = widths[0] if first else widths[min(1, len(widths) - 1)]
        self.kept, self.branches, self.call, self.order = kept, branches, call, order

    def hear(self, name: str, x: Tensor) -> Tensor:
        parts = x[:, : self.width].chunk(len(self.branches))
        for branch, part in zip(self.branches, parts, strict=True):
            keep(self.kept.setdefault(branch, {}), self.call, part, self.order)
        return x


class Settled(Listening):
    """Keeps the output of every cross-attention, the mean of both branches; once `given`, it replaces them,
    and they are not computed."""

    def __init__(self, unet: UNet) -> None:
        paths = [n for n, _ in unet.named_modules() if n.endswith("attn2")]
        super().__init__(*(f"unet.{path}.out" for path in paths))
        self.kept: dict[str, Tensor] = {}
        self.given, self.branches = False, 1

    def instead(self, name: str) -> Tensor | None:
        return self.kept.get(name) if self.given else None

    def hear(self, name: str, x: Tensor) -> Tensor:
        if not self.given:
            self.kept[name] = torch.stack(x.chunk(self.branches)).mean(dim=0)
        return x


class MergePlaces(Listening):
    """Merges places before the finest self-attentions and parts them after."""

    def __init__(self, unet: UNet, ratio: float, hw: tuple[int, int]) -> None:
        paths = finest_blocks(unet)
        super().__init__(
            *(f"{path}.norm1" for path in paths), *(f"{path}.attn1.out" for path in paths)
        )
        self.ratio, self.hw = ratio, hw
        self.matches: dict[str, Match] = {}

    def hear(self, name: str, x: Tensor) -> Tensor:
        if name.endswith(".norm1"):
            match = self.matches[name.removesuffix(".norm1")] = Match(x, self.hw, self.ratio)
            return match.merge(x)
        return self.matches.pop(name.removesuffix(".attn1.out")).part(x)


def finest_blocks(unet: UNet) -> list[str]:
    """The transformer blocks of the finest level."""
    starts = ("down_blocks.0.", f"up_blocks.{len(unet.up_blocks) - 1}.")
    return [
        f"unet.{name}"
        for name, _ in unet.named_modules()
        if name.startswith(starts) and name.rpartition(".")[0].endswith("transformer_blocks")
    ]
