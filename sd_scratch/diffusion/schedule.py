"""The signal and the noise at every timestep, and ladders of noise levels for samplers.

The forward process (Ho et al. 2020, arXiv:2006.11239, equation 4) mixes an image with noise:

    x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps
    alpha_bar_t = (1 - beta_0) (1 - beta_1) ... (1 - beta_t)

`alpha_bar` falls from almost 1 at t = 0 to almost 0 at t = T - 1. Samplers that come from the
"variance exploding" view count the same noise as sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sd_scratch.config import ScheduleConfig
from sd_scratch.diffusion.prediction import PREDICTION_TYPES, noised
from sd_scratch.diffusion.spacing import (
    OWN,
    SIGMA_SPACINGS,
    TIMESTEP_SPACINGS,
    Spacing,
    find_spacing,
)
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.limits import whole

MAX_BETA = 0.999  # keeps the last step of the cosine schedule finite
SMALLEST_ALPHA_BAR = 2.0**-24
FAINTEST = 1e-30  # of alpha_bar: what is fainter is lost when a sample is computed in float32

LEVELS = (
    *("timesteps", "alpha_bars", "sigmas"),
    *("final_alpha_bar", "noise_scale", "final_sigma", "stride"),
)


@dataclass(frozen=True)
class Ladder:
    """Falling noise levels, n rungs, and where a walk down them ends.

    Attributes:
        timesteps: the network's input at each level; they may lie between whole timesteps.
        alpha_bars: the signal's share of the variance at each, rising, in (0, 1).
        sigmas: the noise relative to the signal at each, sqrt((1 - alpha_bar) / alpha_bar), falling.
        final_alpha_bar: where `ddim`, `pndm` and `tcd` end.
        noise_scale: the factor of unit-variance noise at the top level.
        schedule: the schedule of these levels.
        final_sigma: where all other samplers end; 0, without noise, by default.
        stride: how many timesteps each of DDIM's steps goes down; by default 0, to the next level.

    Raises `UsageError` for no level, or for levels that do not fall.
    """

    timesteps: tuple[float, ...]
    alpha_bars: tuple[float, ...]
    sigmas: tuple[float, ...]
    final_alpha_bar: float
    noise_scale: float
    schedule: "Schedule" = field(repr=False, compare=False)
    final_sigma: float = 0.0
    stride: int = 0

    def __post_init__(self) -> None:
        if not len(self.timesteps) == len(self.alpha_bars) == len(self.sigmas) > 0:
            raise UsageError("a ladder needs a timestep, an alpha_bar and a sigma for each rung")
        for above, here in pairwise(zip(self.sigmas, self.timesteps, strict=True)):
            # Beyond the schedule's ends t stays.
            if not (above[0] > here[0] and above[1] >= here[1]):
                raise UsageError(
                    f"the ladder does not fall: sigma {here[0]:g} (t = {here[1]:g}) comes after"
                    f" {above[0]:g} (t = {above[1]:g}) - give each level once, the noisiest first"
                )

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def levels(self) -> tuple[float, ...]:
        """The sigmas and the one at which samplers in sigma space end, n + 1 of them."""
        return (*self.sigmas, self.final_sigma)

    @property
    def signals(self) -> tuple[float, ...]:
        """The alpha_bars, with 0 at zero terminal SNR, where `alpha_bars` has a small number to divide by."""
        zero = SMALLEST_ALPHA_BAR if self.schedule.config.rescale_betas_zero_snr else 0.0
        return tuple(bar if bar > zero else 0.0 for bar in self.alpha_bars)

    @property
    def landings(self) -> tuple[float, ...]:
        """The alpha_bar at which each of DDIM's steps ends."""
        if not self.stride:
            return (*self.alpha_bars[1:], self.final_alpha_bar)
        below = [t - self.stride for t in self.timesteps]
        return tuple(
            self.schedule.alpha_bar_at(t) if t >= 0 else self.final_alpha_bar for t in below
        )

    def plain(self) -> dict[str, Any]:
        """The levels as JSON has them; `Schedule.ladder_from_plain` is the inverse."""
        return {key: getattr(self, key) for key in LEVELS}

    def below(self, t: float) -> "Ladder":
        """The rest of the ladder for a sample at timestep `t`: from the level at `t`, or the next below.

        Raises `UsageError` if `t` is above the schedule's top or below the last level.
        """
        top, last = len(self.schedule) - 1, self.timesteps[-1]
        if not t <= top:
            raise UsageError(f"t = {t:g} is above the schedule's top - give at most {top}")
        if t < last:
            raise UsageError(
                f"t = {t:g} is below the ladder's last rung, t = {last:g}: nothing is left to be"
                " denoised - start with more noise, or take more steps"
            )
        return self.tail(sum(here > t for here in self.timesteps))

    def tail(self, first: int) -> "Ladder":
        """The levels from number `first` on; the top one is 0."""
        return self._rungs(slice(first, None))

    def head(self, count: int) -> "Ladder":
        """The first `count` levels."""
        return self._rungs(slice(count))

    def to_last(self) -> "Ladder":
        """The levels above the last one, at which a walk down them ends. Raises `UsageError` if it is the
        only one."""
        if len(self) == 1:
            raise UsageError(
                "a ladder of one level, at which it ends, has no step - take more steps"
            )
        head, end = self.head(len(self) - 1), self.tail(len(self) - 1)
        return replace(head, final_alpha_bar=end.alpha_bars[0], final_sigma=end.sigmas[0])

    def _rungs(self, rungs: slice) -> "Ladder":
        return replace(
            self,
            timesteps=self.timesteps[rungs],
            alpha_bars=self.alpha_bars[rungs],
            sigmas=self.sigmas[rungs],
        )


class Schedule:
    """The noise levels of one model, on the CPU.

    `betas`, `alpha_bar` and `sigmas` are float32 ``[T]``; the product is taken in float64. The
    samplers read single values as Python floats and compute their coefficients in float64.
    Raises `ScratchError` for an impossible configuration.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        _check(config)
        self.config = config
        betas = torch.tensor(config.trained_betas, dtype=torch.float64)
        if not config.trained_betas:
            betas = BETA_SCHEDULES[config.beta_schedule](config)
        alpha_bar = (1.0 - betas).cumprod(0)
        if config.rescale_betas_zero_snr:
            # Of pure noise there is no finite sigma; the clamp is diffusers', a sigma of 4096.
            alpha_bar = zero_terminal_snr(alpha_bar).clamp(min=SMALLEST_ALPHA_BAR)
            betas = 1.0 - alpha_bar / torch.cat(
                [torch.ones(1, dtype=torch.float64), alpha_bar[:-1]]
            )
        self.betas = betas.float()
        self.alpha_bar = alpha_bar.float()
        gone = int((self.alpha_bar < FAINTEST).sum())
        if gone:
            raise ScratchError(
                f"schedule: at {gone} of its {len(betas)} timesteps (num_train_timesteps) nothing is left of"
                " the picture, not even in rounding - a damaged scheduler_config.json - fetch it again"
            )
        exact = ((1.0 - self.alpha_bar.double()) / self.alpha_bar.double()).sqrt()
        self.sigmas = exact.float()
        self._sigmas, self._log_sigmas = exact.numpy(), exact.log().numpy()

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    @property
    def final_alpha_bar(self) -> float:
        """Where DDIM and PNDM stop: alpha_bar_0 for SD 1.x (a trace of noise stays), else 1."""
        return 1.0 if self.config.set_alpha_to_one else float(self.alpha_bar[0])

    def check_steps(self, steps: int | None) -> int:
        """`steps` as an int, or `UsageError` unless it is a whole number from 1 to T."""
        number = whole(steps)
        if number is None or not 1 <= number <= len(self):
            raise UsageError(
                f"{steps!r} steps cannot be taken - this model's schedule has {len(self)} timesteps"
                f" - give a whole number from 1 to {len(self)}"
            )
        return number

    def timesteps(self, steps: int) -> list[int]:
        """The `steps` timesteps to visit, strictly falling, all in 0..T-1.

        Spaced as the configuration says (Lin et al. 2023, arXiv:2305.08891, table 2). A single step starts at
        T - 1 with any spacing: leading and linspace would start where there is almost no noise to remove.
        Raises `UsageError` for a count outside 1..T.
        """
        return [round(t) for t in self._timesteps(steps, Spacing(OWN))]

    def ladder(
        self, steps: int, spacing: str | None = None, *, sigma_space: bool = False
    ) -> Ladder:
        """`steps` noise levels with the given spacing, by default the configuration's; `ddim_uniform` and
        "+end" can have another number of them.

        `sigma_space` is for samplers that work in sigma, as in diffusers: they visit timesteps between whole
        ones, and begin with noise of standard deviation sigma, less than the unit variance of the others.
        Leading spacing begins below T - 1, where that would be less noise than the network expects: there all
        begin with unit variance.
        Raises `UsageError` for an unknown spacing or for steps outside 1..T.
        """
        wanted = find_spacing(OWN if spacing is None else spacing)
        cut = wanted.has("cut")
        rungs = self.check_steps(steps) + cut
        if rungs > len(self):
            raise UsageError(
                f"{steps} steps cannot be taken: {wanted} leaves out one level of {rungs}, and this model's"
                f" schedule has {len(self)} timesteps - take a step less"
            )
        timesteps = self._timesteps(rungs, wanted)
        if wanted.name in SIGMA_SPACINGS:
            ends = timesteps[0], timesteps[-1]
            if wanted.has("all", "solver"):
                ends = len(self) - 1, 0
            high, low = map(self.sigma_at, ends)
            ladder = self.ladder_of_sigmas(SIGMA_SPACINGS[wanted.name](high, low, rungs))
        else:
            ladder = self.ladder_of_timesteps(
                timesteps if sigma_space else [float(round(t)) for t in timesteps]
            )
        if wanted.name in SIGMA_SPACINGS or wanted.has("whole"):
            ladder = replace(ladder, timesteps=wanted.told(ladder.timesteps))
        ladder = ladder.head(len(ladder) - cut)
        if wanted.has("end"):
            ladder = ladder.to_last()
        if wanted.has("last"):
            ladder = replace(ladder, final_sigma=self.sigma_at(0))
        if wanted.has("stride"):
            ladder = replace(ladder, stride=len(self) // rungs)
        own = wanted.name if wanted.name in TIMESTEP_SPACINGS else self.config.timestep_spacing
        unit = wanted.has("solver", "unit") or (own == "leading" and not wanted.has("all"))
        if sigma_space and not unit:
            return replace(ladder, noise_scale=math.sqrt(1.0 - ladder.alpha_bars[0]))
        return ladder

    def ladder_of_timesteps(self, timesteps: Sequence[float]) -> Ladder:
        """A ladder of your own, of falling timesteps in 0..T-1, whole or not."""
        if not all(0 <= t <= len(self) - 1 for t in timesteps):
            raise UsageError(f"timesteps must be from 0 to {len(self) - 1}, found {timesteps}")
        levels = tuple(float(t) for t in timesteps)
        bars, sigmas = map(self.alpha_bar_at, levels), map(self.sigma_at, levels)
        return Ladder(levels, tuple(bars), tuple(sigmas), self.final_alpha_bar, 1.0, self)

    def ladder_of_sigmas(self, sigmas: Sequence[float]) -> Ladder:
        """A ladder of your own, of falling sigmas above 0. For one above the schedule's largest the network
        gets the last timestep."""
        if not all(0.0 < sigma < math.inf for sigma in sigmas):
            raise UsageError(f"sigmas must be above 0 and finite, found {sigmas}")
        levels = tuple(float(sigma) for sigma in sigmas)
        timesteps = tuple(map(self.timestep_at, levels))
        bars = tuple(1.0 / (sigma**2 + 1.0) for sigma in levels)
        end = max((self.final_alpha_bar, *bars[-1:]))
        return Ladder(timesteps, bars, levels, end, 1.0, self)

    def ladder_from_plain(self, plain: Mapping[str, Any]) -> Ladder:
        """The inverse of `Ladder.plain`. Raises `ScratchError` for anything else."""
        try:
            timesteps, bars, sigmas = (tuple(map(float, plain[key])) for key in LEVELS[:3])
            end, scale = (float(plain[key]) for key in LEVELS[3:5])
            final, stride = float(plain.get("final_sigma", 0.0)), int(plain.get("stride", 0))
        except (KeyError, TypeError, ValueError):
            raise ScratchError("the ladder of noise levels is damaged") from None
        return Ladder(timesteps, bars, sigmas, end, scale, self, final, stride)

    def _timesteps(self, steps: int, spacing: Spacing) -> list[float]:
        if self.check_steps(steps) == 1:
            return [float(len(self) - 1)]
        own = self.config.timestep_spacing
        return spacing.timesteps(own, len(self), steps, self.config.steps_offset)

    def alpha_bar_at(self, t: float) -> float:
        """alpha_bar at a timestep in 0..T-1; between whole timesteps that of `sigma_at`."""
        if t == int(t):
            return float(self.alpha_bar[int(t)])
        return 1.0 / (self.sigma_at(t) ** 2 + 1.0)

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


def zero_terminal_snr(alpha_bar: Tensor) -> Tensor:
    """Shift and scale sqrt(alpha_bar) so that T - 1 is pure noise, and the first one stays (Lin et al. 2023,
    arXiv:2305.08891, algorithm 1)."""
    root = alpha_bar.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * first / (first - last)) ** 2


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


def _sigmoid(config: ScheduleConfig) -> Tensor:
    """A sigmoid from -6 to 6 between the two ends (GeoDiff, Xu et al. 2022, arXiv:2203.02923)."""
    rise = torch.linspace(-6.0, 6.0, config.num_train_timesteps, dtype=torch.float64).sigmoid()
    return rise * (config.beta_end - config.beta_start) + config.beta_start


BETA_SCHEDULES: dict[str, Callable[[ScheduleConfig], Tensor]] = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "squaredcos_cap_v2": _cosine,
    "sigmoid": _sigmoid,
}


def _check(config: ScheduleConfig) -> None:
    choices = {
        "beta_schedule": tuple(BETA_SCHEDULES),
        "timestep_spacing": tuple(TIMESTEP_SPACINGS),
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
    if config.trained_betas:
        _check_betas(config)
    elif not 0.0 < config.beta_start <= config.beta_end < 1.0:
        raise ScratchError(
            f"schedule: 0 < beta_start <= beta_end < 1 does not hold for {config.beta_start} and"
            f" {config.beta_end} - a damaged scheduler_config.json - fetch the file again"
        )
    if config.rescale_betas_zero_snr and config.prediction_type == "epsilon":
        raise ScratchError(
            "schedule: with zero terminal SNR (rescale_betas_zero_snr) the first step is all noise, in"
            " which a prediction of the noise says nothing of the picture - such a model predicts v"
        )


def _check_betas(config: ScheduleConfig) -> None:
    if len(config.trained_betas) != config.num_train_timesteps:
        raise ScratchError(
            f"schedule: {len(config.trained_betas)} trained_betas for {config.num_train_timesteps}"
            " timesteps (num_train_timesteps) - a damaged scheduler_config.json"
        )
    if not all(0.0 < beta < 1.0 for beta in config.trained_betas):
        raise ScratchError(
            "schedule: trained_betas must all lie between 0 and 1 - a damaged scheduler_config.json"
        )
