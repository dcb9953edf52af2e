"""How much signal and noise there is at every timestep, and which timesteps a sampler visits.

The forward process (Ho et al. 2020, arXiv:2006.11239, equation 4) mixes an image with noise:

    x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps
    alpha_bar_t = (1 - beta_0) (1 - beta_1) ... (1 - beta_t)

`alpha_bar` falls from almost 1 at t = 0 to almost 0 at t = T - 1. Samplers that come from the
"variance exploding" view count the same noise as sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sd_scratch.config import ScheduleConfig
from sd_scratch.diffusion.prediction import PREDICTION_TYPES, noised
from sd_scratch.errors import ScratchError, UsageError

MAX_BETA = 0.999  # keeps the last step of the cosine schedule finite


class Schedule:
    """The noise levels of one model, on the CPU.

    `betas`, `alpha_bar` and `sigmas` are float32 ``[T]``; the product is taken in float64. The
    samplers read single values as Python floats and compute their coefficients in float64.
    Raises `ScratchError` when the configuration is one that no model can have.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        _check(config)
        self.config = config
        betas = BETA_SCHEDULES[config.beta_schedule](config)
        self.betas = betas.float()
        self.alpha_bar = (1.0 - betas).cumprod(0).float()
        exact = ((1.0 - self.alpha_bar.double()) / self.alpha_bar.double()).sqrt()
        self.sigmas = exact.float()
        self._sigmas, self._log_sigmas = exact.numpy(), exact.log().numpy()

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    @property
    def final_alpha_bar(self) -> float:
        """Where DDIM and PNDM stop: alpha_bar_0 for SD 1.x (a trace of noise stays), else 1."""
        return 1.0 if self.config.set_alpha_to_one else float(self.alpha_bar[0])

    def check_steps(self, steps: int) -> int:
        """`steps` itself, or `UsageError` unless it is a whole number from 1 to T."""
        if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= len(self):
            raise UsageError(
                f"{steps!r} steps cannot be taken - this model's schedule has {len(self)} timesteps"
                f" - give a whole number from 1 to {len(self)}",
            )
        return steps

    def timesteps(self, steps: int) -> list[int]:
        """The `steps` timesteps to visit, strictly falling, all in 0..T-1.

        Spaced as the configuration says (Lin et al. 2023, arXiv:2305.08891, table 2). A single step
        starts at T - 1 whatever the spacing: leading and linspace would start where there is
        almost no noise to remove. Raises `UsageError` for a count outside 1..T.
        """
        return [round(t) for t in self.fractional_timesteps(steps)]

    def fractional_timesteps(self, steps: int) -> list[float]:
        """`timesteps` before rounding, which only linspace spacing needs (sigma-space samplers)."""
        spacing = SPACINGS[self.config.timestep_spacing]
        if self.check_steps(steps) == 1:
            return [float(len(self) - 1)]
        return spacing(len(self), steps, self.config.steps_offset)

    def alpha_bar_at(self, t: int) -> float:
        return float(self.alpha_bar[t])

    def sigma_at(self, t: float) -> float:
        """Sigma at a timestep in 0..T-1, linear between whole timesteps."""
        return float(np.interp(t, np.arange(len(self)), self._sigmas))

    def timestep_at(self, sigma: float) -> float:
        """The timestep with noise level `sigma`, linear in log sigma and held at both ends."""
        return float(np.interp(math.log(sigma), self._log_sigmas, np.arange(len(self))))

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """x_t for a clean `x0` ``[B, ...]`` and unit-variance `noise` of its shape.

        `t` is one timestep or a ``[B]`` tensor of them, 0..T-1.
        """
        if isinstance(t, int):
            return noised(x0, noise, self.alpha_bar_at(t))
        return noised(x0, noise, self.alpha_bar.to(x0.device)[t.to(x0.device)])


def _linear(config: ScheduleConfig) -> Tensor:
    """Ho et al. 2020, section 4."""
    return torch.linspace(
        config.beta_start, config.beta_end, config.num_train_timesteps, dtype=torch.float64
    )


def _scaled_linear(config: ScheduleConfig) -> Tensor:
    """Linear in sqrt(beta): latent diffusion's schedule, and SD 1.x's."""
    start, end = math.sqrt(config.beta_start), math.sqrt(config.beta_end)
    return torch.linspace(start, end, config.num_train_timesteps, dtype=torch.float64) ** 2


def _cosine(config: ScheduleConfig) -> Tensor:
    """A squared cosine for alpha_bar (Nichol and Dhariwal 2021, arXiv:2102.09672, equation 17)."""
    time = torch.linspace(0.0, 1.0, config.num_train_timesteps + 1, dtype=torch.float64)
    alpha_bar = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1.0 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=MAX_BETA)


def _leading(T: int, steps: int, offset: int) -> list[float]:
    """Multiples of T // steps plus the offset, lowered where the offset would leave the schedule.

    The first timestep may lie well below T - 1: with T = 1000, 501 to 999 steps have stride 1.
    """
    stride = T // steps
    offset = min(offset, T - 1 - (steps - 1) * stride)
    return [float(i * stride + offset) for i in reversed(range(steps))]


def _linspace(T: int, steps: int, offset: int) -> list[float]:
    """From T - 1 down to 0, both included."""
    return [float(t) for t in np.linspace(0, T - 1, steps)[::-1]]


def _trailing(T: int, steps: int, offset: int) -> list[float]:
    """From T - 1 down in strides of T / steps, rounded."""
    # Cut because accumulated rounding sometimes lets `arange` run one element too far.
    return [float(t) - 1.0 for t in np.round(np.arange(T, 0, -T / steps))[:steps]]


BETA_SCHEDULES: dict[str, Callable[[ScheduleConfig], Tensor]] = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "squaredcos_cap_v2": _cosine,
}

SPACINGS: dict[str, Callable[[int, int, int], list[float]]] = {
    "leading": _leading,
    "linspace": _linspace,
    "trailing": _trailing,
}


def _check(config: ScheduleConfig) -> None:
    choices = {
        "beta_schedule": tuple(BETA_SCHEDULES),
        "timestep_spacing": tuple(SPACINGS),
        "prediction_type": PREDICTION_TYPES,
    }
    for key, known in choices.items():
        value = getattr(config, key)
        if value not in known:
            raise ScratchError(
                f"schedule: {key} {value!r} is unknown - a damaged scheduler_config.json, or a"
                f" newer kind of model - known are {', '.join(known)}"
            )
    if config.num_train_timesteps < 1 or config.steps_offset < 0:
        raise ScratchError(
            "schedule: num_train_timesteps must be at least 1 and steps_offset at least 0"
            " - a damaged scheduler_config.json - fetch the file again"
        )
    if not 0.0 < config.beta_start <= config.beta_end < 1.0:
        raise ScratchError(
            f"schedule: 0 < beta_start <= beta_end < 1 does not hold for {config.beta_start} and"
            f" {config.beta_end} - a damaged scheduler_config.json - fetch the file again"
        )
