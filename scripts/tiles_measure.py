#!/usr/bin/env python3
"""What 3x3 convolutions in tiles take of a direct one's time: a table of docs/performance.md.

    python scripts/tiles_measure.py [THREADS]

Shapes are those of a guided step and of decoding at 512x512. Both ways run in turn, each call on the next of four sets of
weights, so that weights come from memory as in a run. Needs an otherwise idle machine.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.networks.tiles import convolve_in_tiles

SHAPES = [  # batch, channels in and out, cells a side
    ("U-Net", 2, 320, 320, 64),
    ("U-Net", 2, 960, 320, 64),
    ("U-Net", 2, 640, 640, 32),
    ("U-Net", 2, 1920, 640, 32),
    ("U-Net", 2, 1280, 1280, 16),
    ("U-Net", 2, 2560, 1280, 16),
    ("VAE", 1, 512, 512, 64),
    ("VAE", 1, 512, 512, 128),
    ("VAE", 1, 512, 256, 256),
    ("VAE", 1, 256, 256, 256),
    ("VAE", 1, 256, 256, 512),
    ("VAE", 1, 128, 128, 512),
]
ROUNDS, WEIGHTS = 5, 4


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads())
    print("| | channels | cells | direct | in tiles | ratio |\n|---|---|---|---|---|---|")
    for network, batch, inputs, outputs, side in SHAPES:
        x, bias = torch.randn(batch, inputs, side, side), torch.randn(outputs)
        x = x.contiguous(memory_format=torch.channels_last)
        kernels = [torch.randn(outputs, inputs, 3, 3) for _ in range(WEIGHTS)]
        kernels = [w.contiguous(memory_format=torch.channels_last) for w in kernels]
        ways: list[Callable[[Tensor], Tensor]] = [
            partial(F.conv2d, x, bias=bias, padding=1),
            partial(convolve_in_tiles, x, bias=bias),
        ]
        direct, tiles = times(ways, kernels)
        print(
            f"| {network} | {inputs} to {outputs} | {batch}x{side}x{side} | {direct * 1e3:.0f} ms"
            f" | {tiles * 1e3:.0f} ms | {tiles / direct:.2f} |",
            flush=True,
        )


def times(ways: list[Callable[[Tensor], Tensor]], kernels: list[Tensor]) -> list[float]:
    """Seconds of each way, the median of all rounds but the first."""
    taken: list[list[float]] = [[] for _ in ways]
    turn = itertools.cycle(kernels)
    for _ in range(ROUNDS):
        for way, seconds in zip(ways, taken, strict=True):
            weight = next(turn)
            start = time.perf_counter()
            way(weight)
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds[1:]) for seconds in taken]


if __name__ == "__main__":
    main()
