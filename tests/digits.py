"""A data set of ten patterns, and presets small enough to learn them in a test."""

import struct
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sd_scratch.config import (
    ClassifierConfig,
    ContextUNetConfig,
    PixelModelConfig,
    PixelUNetConfig,
)
from sd_scratch.training.pixels.datasets import DIGITS
from sd_scratch.training.pixels.images import DataSet, LabelledImages
from sd_scratch.training.pixels.presets import COSINE, PAPER, JudgePreset, PixelPreset
from sd_scratch.training.settings import TrainConfig

SIDE = 8
TRAIN = TrainConfig(
    batch=16,
    lr=2e-3,
    warmup_steps=5,
    ema_decay=0.9,
    log_steps=1,
    save_seconds=1e9,
    look_seconds=1e9,
)
NETWORK = PixelUNetConfig(
    sample_size=SIDE,
    block_out_channels=(8, 16),
    attention=(False, True),
    attention_head_dim=8,
    norm_num_groups=4,
)
BETTER = PixelPreset(
    "mnist", PixelModelConfig("tiny", NETWORK, COSINE, steps=4, guidance=2.0), TRAIN
)
PAPER_NETWORK = ContextUNetConfig(sample_size=SIDE, features=8)
PAPER_TINY = PixelPreset(
    "mnist",
    PixelModelConfig(
        "tiny-paper", PAPER_NETWORK, PAPER, low=0.0, first_timestep=1, clip_x0=False, steps=4
    ),
    TRAIN,
)
JUDGE = JudgePreset(
    ClassifierConfig(sample_size=SIDE, block_out_channels=(8, 16), norm_num_groups=4),
    replace(TRAIN, lr=1e-2),
    shift=0,
    flip=False,
)


def lively(network: nn.Module) -> nn.Module:
    """`liven` for networks with BatchNorm, whose running variances must stay positive."""
    generator = torch.Generator().manual_seed(0)
    state = network.state_dict()
    for name, value in state.items():
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            state[name] = 1 + 0.2 * noise.clamp(-2, 2)
        elif value.ndim > 1:
            state[name] = noise / value[0].numel() ** 0.5
        elif value.is_floating_point():
            state[name] = value + 0.1 * noise
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def digits(count: int, side: int = SIDE, channels: int = 1, seed: int = 0) -> LabelledImages:
    """Class k is the k-th pattern of light and dark cells, with a little noise."""
    fixed = torch.Generator().manual_seed(77)
    patterns = (torch.rand(10, channels, 4, 4, generator=fixed) < 0.5).float() * 200
    patterns = patterns.repeat_interleave(side // 4, 2).repeat_interleave(side // 4, 3)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    noise = torch.randint(0, 40, (count, channels, side, side), generator=generator)
    images = (patterns[labels] + noise).to(torch.uint8)
    return LabelledImages(images, labels, DIGITS, "digits")


def digit_data(side: int = SIDE, channels: int = 1) -> DataSet:
    return DataSet(digits(160, side, channels, seed=1), digits(40, side, channels, seed=2))


def write_idx(path: Path, values: Tensor) -> None:
    """Write a uint8 tensor as a plain IDX file."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.contiguous().numpy().tobytes())


def write_batch(path: Path, data: LabelledImages) -> None:
    """Write pictures and labels as one binary batch."""
    records = torch.cat([data.labels.to(torch.uint8)[:, None], data.images.flatten(1)], dim=1)
    path.write_bytes(records.contiguous().numpy().tobytes())
