"""What a linear layer runs as on a CPU: a matrix product, or a 1x1 convolution over its rows.

PyTorch sends products in fp32 to its BLAS and convolutions to oneDNN. Which is faster depends on the processor,
the layer and the number of rows: by a fifth or more, either way. The numbers agree up to rounding. A choice
belongs to a layer and is made once, by a rule or by measuring; whoever uses the network later leaves it.
"""

from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter
from typing import NamedTuple

import torch
from torch import nn

from sd_scratch.networks.layers import Linear
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.networks.unet import UNet

SMALL = 20_000_000  # parameters of a network that is not worth measuring
GAIN = 0.95  # a convolution has to take less than this share of a product's time
MOST_ROWS = 1024  # that are measured; from here on the ratio does not change


class Shape(NamedTuple):
    """What decides: the rows of a call, and the layer's numbers of inputs and outputs."""

    rows: int
    inputs: int
    outputs: int

    @property
    def work(self) -> int:
        """Multiplications of one call."""
        return self.rows * self.inputs * self.outputs


def by_rule(network: nn.Module) -> bool:
    """Whether a network's layers run as convolutions where nothing was measured: all but those of a large
    text encoder, whose few rows do not pay for bringing the weights into another order at each call."""
    return is_small(network) or not isinstance(network, TextEncoder)


def is_small(network: nn.Module) -> bool:
    return sum(p.numel() for p in network.parameters()) < SMALL


def choose_by_rule(network: nn.Module, convolutions_are_fast: bool) -> None:
    """Choose for each layer that has no choice yet."""
    choice = convolutions_are_fast and by_rule(network)
    for layer in network.modules():
        if isinstance(layer, Linear) and layer.by_convolution is None:
            layer.by_convolution = choice


def linear_shapes(
    text: nn.Module, unet: UNet, tokens: int, hw: tuple[int, int], batch: int
) -> dict[Shape, list[Linear]]:
    """The linear layers of a text encoder and a U-Net by the shapes of their calls, for `batch` texts of so many
    tokens and latents of height and width `hw`."""
    levels = len(unet.config.block_out_channels)
    rows = {layer: tokens for _, layer in linear_layers(text)}
    rows |= {layer: unet_rows(path, levels, tokens, hw) for path, layer in linear_layers(unet)}
    found: dict[Shape, list[Linear]] = {}
    for layer, count in rows.items():
        shape = Shape(batch * count, layer.in_features, layer.out_features)
        found.setdefault(shape, []).append(layer)
    return found


def linear_layers(network: nn.Module) -> Iterator[tuple[str, Linear]]:
    return ((n, m) for n, m in network.named_modules() if isinstance(m, Linear))


def unet_rows(path: str, levels: int, tokens: int, hw: tuple[int, int]) -> int:
    """How many rows one latent gives the linear layer at `path` of a U-Net."""
    block, number, *rest = path.split(".")
    if "attentions" not in path:
        return 1  # the timestep
    if rest[-2:] in (["attn2", "to_k"], ["attn2", "to_v"]):
        return tokens
    level = levels - 1  # the middle's
    if block == "down_blocks":
        level = int(number)
    elif block == "up_blocks":
        level -= int(number)
    height, width = hw
    for _ in range(level):
        height, width = (height + 1) // 2, (width + 1) // 2
    return height * width


@torch.no_grad()
def measure(
    layers: Mapping[Shape, Sequence[Linear]], rounds: int, seconds: float
) -> dict[Shape, bool]:
    """Whether each shape is faster as a convolution. The layers themselves are called, so that weights come
    from memory as they do in a run; shapes with the most work come first, and after `seconds` no other is
    begun."""
    chosen: dict[Shape, bool] = {}
    deadline = perf_counter() + seconds
    for shape in sorted(layers, key=lambda each: each.work * len(layers[each]), reverse=True):
        if perf_counter() > deadline:
            break
        same = layers[shape]
        x = torch.ones(min(shape.rows, MOST_ROWS), shape.inputs)
        times: dict[bool, list[float]] = {False: [], True: []}
        for i in range(rounds):
            layer = same[i % len(same)]
            for choice, run in ((False, layer.as_product), (True, layer.as_convolution)):
                start = perf_counter()
                run(x)
                times[choice].append(perf_counter() - start)
        chosen[shape] = min(times[True]) < GAIN * min(times[False])
    return chosen
