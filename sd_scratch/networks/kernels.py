"""The kernel of a layer on a CPU: a matrix product, a convolution, or a convolution in tiles.

PyTorch sends products in fp32 to its BLAS and convolutions to oneDNN. Which is faster depends on the processor,
the layer and the number of rows:

- A linear layer may be a 1x1 convolution over its rows, a fifth faster or slower.
- A 3x3 convolution of a few cells may be a product of its patches, up to five times as fast, because oneDNN
  brings all weights into an order of its own at each call.
- One of many cells may be computed in tiles (`sd_scratch.networks.tiles`), up to twice as fast.

The numbers agree up to rounding. The choice belongs to a layer and is made once, by a rule or by measuring;
later uses of the network keep it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from time import perf_counter
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.networks.layers import Conv2d, Linear, in_type
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.networks.tiles import in_tiles
from sd_scratch.networks.unet import UNet

SMALL = 20_000_000  # parameters of a network that is not worth measuring
GAIN = 0.95  # a convolution has to take less than this share of a product's time
MOST_ROWS = 1024  # that are measured; from here on the ratio does not change
STEADY = 1.25  # the largest ratio of two times by the smallest, on a machine that does nothing else
PRODUCT_SIDES = (
    4,
    8,
)  # of latents at which convolutions are tried as products, as long as they gain
TILE_SIDES = (16, 32)  # and in tiles, until they gain
TILE_CHANNELS = 128  # at least: with fewer, tiles cost as much as they save


Way = Callable[[Tensor], Tensor]


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
    """Whether a network's layers run as convolutions without a measurement: all except those of a large text
    encoder, whose few rows do not pay for reordering the weights at each call."""
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
) -> dict[Shape, bool | None]:
    """Whether each shape is faster as a convolution; None if the times are inconclusive on a busy machine.
    The layers themselves are called, so weights come from memory as in a run. Shapes with the most work come
    first, and none starts after `seconds`."""
    chosen: dict[Shape, bool | None] = {}
    deadline = perf_counter() + seconds
    for shape in sorted(layers, key=lambda each: each.work * len(layers[each]), reverse=True):
        if perf_counter() > deadline:
            break
        x = torch.ones(min(shape.rows, MOST_ROWS), shape.inputs)
        ways = [(layer.as_product, layer.as_convolution) for layer in layers[shape]]
        chosen[shape] = second_is_faster(ways, x, rounds)
    return chosen


class Cells(NamedTuple):
    """For how many cells of a batch a 3x3 convolution is faster another way; 0 stands for never."""

    product: int
    """As a product of its patches up to so many."""
    tiles: int
    """In tiles from so many on."""


@torch.no_grad()
def measure_cells(unet: UNet, batch: int, rounds: int) -> Cells:
    """Measured on the middle's layers."""
    layers = [m for m in unet.mid_block.modules() if isinstance(m, Conv2d) and m.kernel_size[0] > 1]

    def faster(side: int, way: Callable[[Conv2d], Way]) -> bool:
        shape = (batch, layers[0].in_channels, side + 2, side + 2)  # padded
        x = torch.ones(shape).contiguous(memory_format=torch.channels_last)
        times = in_turn([(as_convolution(m), way(m)) for m in layers], x, rounds)
        # The least of each: something else on the machine only adds.
        convolution, other = (min(pair[k] for pair in times) for k in (0, 1))
        return other < GAIN * convolution

    tiles = next((side for side in TILE_SIDES if faster(side, as_tiles)), 0)
    products = takewhile(lambda side: faster(side, lambda m: m.as_product), PRODUCT_SIDES)
    return Cells(product=batch * max(products, default=0) ** 2, tiles=batch * tiles**2)


def as_convolution(layer: Conv2d) -> Way:
    """A layer on a padded picture, whatever is chosen for it."""
    return lambda x: F.conv2d(x, in_type(layer.weight, x.dtype), layer.bias, layer.stride)


def as_tiles(layer: Conv2d) -> Way:
    return lambda x: in_tiles()(x, in_type(layer.weight, x.dtype), layer.bias, 0)


def choose_cells(network: nn.Module, cells: Cells) -> None:
    """Let the convolutions of a network run as was measured."""
    for layer in network.modules():
        if isinstance(layer, Conv2d):
            layer.product_cells = cells.product
            layer.tile_cells = cells.tiles if can_be_tiled(layer) else 0


def cells_of(unet: UNet) -> Cells:
    """What was chosen for a U-Net."""
    convolutions = [m for m in unet.modules() if isinstance(m, Conv2d)]
    return Cells(unet.conv_in.product_cells, max(m.tile_cells for m in convolutions))


def can_be_tiled(layer: Conv2d) -> bool:
    channels = min(layer.in_channels, layer.out_channels)
    return layer.kernel_size == (3, 3) and layer.stride == (1, 1) and channels >= TILE_CHANNELS


def second_is_faster(ways: Sequence[tuple[Way, Way]], x: Tensor, rounds: int) -> bool | None:
    """Whether the second of two ways takes less than `GAIN` of the first one's time, in turn and layer by
    layer; None if the pairs of times neither agree nor are alike. The first pair is a warm-up."""
    ratios = sorted(second / first for first, second in in_turn(ways, x, rounds)[1:])
    agree = ratios[-1] < GAIN or ratios[0] >= GAIN
    if not agree and ratios[-1] > STEADY * ratios[0]:
        return None
    return ratios[len(ratios) // 2] < GAIN


def in_turn(ways: Sequence[tuple[Way, Way]], x: Tensor, rounds: int) -> list[tuple[float, float]]:
    """Seconds of both ways, from layer to layer."""
    times = []
    for i in range(rounds):
        start = perf_counter()
        ways[i % len(ways)][0](x)
        middle = perf_counter()
        ways[i % len(ways)][1](x)
        times.append((middle - start, perf_counter() - middle))
    return times
