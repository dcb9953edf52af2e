"""Only the U-Net's last layers, and forecasts from earlier calls."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.networks.layers import timestep_embedding
from sd_scratch.networks.unet import UNet


def shallow(
    unet: UNet,
    x_t: Tensor,
    t: Tensor,
    context: Tensor,
    control: Sequence[Tensor],
    features: Sequence[Tensor],
    below: Tensor,
    first: int,
) -> Tensor:
    """`UNet.forward` from layer number `first` of the last level on the way up, where `below` ``[B, C, h,
    w]`` enters, with as many layers of the way down as it needs skips."""
    x_t, t, context = unet.tap("x", x_t), unet.tap("t", t), unet.tap("context", context)
    time = timestep_embedding(t, unet.config.block_out_channels[0]).to(x_t.dtype)
    time = unet.tap("time_embedding", unet.time_embedding(unet.tap("time_proj", time)))

    down: Any = unet.down_blocks[0]
    up: Any = unet.up_blocks[-1]
    h = unet.tap("conv_in", unet.conv_in(x_t))
    skips = [h]
    for i in range(len(up.resnets) - first - 1):
        h = down.resnets[i](h, time)
        if down.attentions:
            h = down.attentions[i](h, context)
        if features and i == len(down.resnets) - 1:
            h = h + features[0]
        skips.append(h)
    if control:
        skips = [skip + r for skip, r in zip(skips, control[: len(skips)], strict=True)]

    h = below
    for i in range(first, len(up.resnets)):
        h = up.tap(f"concat.{i}", torch.cat([h, skips.pop()], dim=1))
        h = up.resnets[i](h, time)
        if up.attentions:
            h = up.attentions[i](h, context)
    h = unet.tap("norm_out", unet.conv_norm_out(h))
    return unet.tap("pred", unet.conv_out(F.silu(h)))


def keep(known: dict[int, Tensor], call: int, value: Tensor, order: int) -> None:
    """Keep a call's value and as many older ones as a polynomial of that order goes through."""
    known[call] = value
    for old in list(known)[: -order - 1]:
        del known[old]


def forecast(known: Mapping[int, Tensor], call: int) -> Tensor:
    """The value at a call of the polynomial through the known ones (Lagrange)."""
    total: Tensor | None = None
    for here, value in known.items():
        weight = math.prod((call - other) / (here - other) for other in known if other != here)
        total = weight * value if total is None else total + weight * value
    assert total is not None
    return total
