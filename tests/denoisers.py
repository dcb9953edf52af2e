"""Models small enough to be understood, for testing samplers."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.diffusion.prediction import target
from sd_scratch.diffusion.schedule import Schedule


def alpha_bar_at(schedule: Schedule, t: float) -> float:
    """alpha_bar at any t, linear in log sigma between the schedule's timesteps."""
    alpha_bar = schedule.alpha_bar.double().numpy()
    log_snr = np.interp(t, np.arange(len(schedule)), np.log(alpha_bar / (1 - alpha_bar)))
    return 1 / (1 + math.exp(-log_snr))


class Recorder:
    """A model that remembers the timesteps it was asked about."""

    def __init__(self, model: Callable[[Tensor, float], Tensor]) -> None:
        self.model = model
        self.timesteps: list[float] = []

    def __call__(self, x_t: Tensor, t: float) -> Tensor:
        self.timesteps.append(float(t))
        return self.model(x_t, float(t))


def gaussian(
    schedule: Schedule, mean: Tensor | float, std: float
) -> Callable[[Tensor, float], Tensor]:
    """The perfect network for data from N(mean, std^2): what E[x0 | x_t] says, in the schedule's
    prediction type."""

    def model(x_t: Tensor, t: float) -> Tensor:
        alpha_bar = alpha_bar_at(schedule, t)
        a, s = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
        gain = a * std**2 / (alpha_bar * std**2 + 1 - alpha_bar)
        x0 = mean + gain * (x_t - a * mean)
        return target(x0, (x_t - a * x0) / s, alpha_bar, schedule.config.prediction_type)

    return model


def lively(schedule: Schedule, seed: int = 0) -> Callable[[Tensor, float], Tensor]:
    """A random convolutional network of x_t ``[B, 4, H, W]`` and t: not linear in either, and mild
    enough that samples keep the scale of real latents."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, gain: float = 1.0) -> Tensor:
        fan_in = math.prod(shape[1:])
        return gain * torch.randn(shape, generator=generator) / math.sqrt(fan_in)

    weights = random(16, 4, 3, 3), random(16, 16, 3, 3), random(4, 16, 3, 3)
    time_weight = random(16, 8, gain=2.0)

    def model(x_t: Tensor, t: float) -> Tensor:
        inward, within, outward, time = (w.to(x_t.dtype) for w in (*weights, time_weight))
        angles = 0.06 * t * torch.tensor([1.0, 0.5, 0.1, 0.02], dtype=x_t.dtype)
        embedding = time @ torch.cat([angles.cos(), angles.sin()])
        h = torch.tanh(F.conv2d(x_t, inward, padding=1) + embedding[:, None, None])
        h = h + F.silu(F.conv2d(h, within, padding=1))
        wiggle = 0.5 * F.conv2d(h, outward, padding=1)
        a = math.sqrt(alpha_bar_at(schedule, t))
        kind = schedule.config.prediction_type
        return wiggle + (math.sqrt(1 - a * a) * x_t if kind == "epsilon" else -0.3 * a * x_t)

    return model
