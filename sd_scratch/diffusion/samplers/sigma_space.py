"""The view in which noise is added and nothing else happens: x = x0 + sigma eps.

Karras et al. 2022 (arXiv:2206.00364). A variance-preserving sample turns into one of these by
x = x_t / sqrt(alpha_bar) = x_t sqrt(sigma^2 + 1), and the way back to the image is a plain ordinary
differential equation (their equation 4 with this scaling):

    dx / dsigma = eps(x, sigma)

LMS, Euler, Heun and the DPM solvers are ways to integrate it along a ladder of falling sigmas.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from sd_scratch.diffusion.prediction import Prediction
from sd_scratch.diffusion.samplers.step import Denoiser, Step, choice, predict
from sd_scratch.diffusion.schedule import Schedule

SIGMAS = ("discrete", "karras")


@dataclass(frozen=True)
class Ladder:
    """The noise levels that a sampler visits: one more sigma than timesteps, and the last one 0."""

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    start: float  # what unit-variance noise is multiplied with to make the first sample


def ladder(schedule: Schedule, steps: int, spacing: str) -> Ladder:
    """The sigmas of the schedule's timesteps ("discrete"), or a named spacing between their ends.

    Raises `UsageError` for an unknown spacing or for steps outside 1..T.
    """
    choice("sigmas", spacing, SIGMAS)
    timesteps = schedule.fractional_timesteps(steps)
    sigmas = [schedule.sigma_at(t) for t in timesteps]
    if spacing == "karras":
        sigmas = karras(sigmas[0], sigmas[-1], steps)
        timesteps = [schedule.timestep_at(sigma) for sigma in sigmas]
    # Leading spacing begins below T - 1, where plain sigma would fall short of the unit variance
    # that the network expects; for the other spacings plain sigma is the custom.
    leading = schedule.config.timestep_spacing == "leading"
    start = math.hypot(sigmas[0], 1.0) if leading else sigmas[0]
    return Ladder(tuple(timesteps), (*sigmas, 0.0), start)


def karras(sigma_max: float, sigma_min: float, steps: int, rho: float = 7.0) -> list[float]:
    """Even steps in sigma^(1/rho) (Karras et al. 2022, equation 5): small ones near the image."""
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return [(high + i / max(steps - 1, 1) * (low - high)) ** rho for i in range(steps)]


def variance_preserving(x: Tensor, sigma: float) -> Tensor:
    """x = x0 + sigma eps as the network sees it: divided by sqrt(sigma^2 + 1)."""
    return x / math.hypot(sigma, 1.0)


def resume(x_next: Tensor, sent: Tensor | None, sigma: float) -> Tensor:
    """Where to go on: at the sampler's own x_next, or at a variance-preserving one that was sent."""
    return x_next if sent is None else sent * math.hypot(sigma, 1.0)


def alpha_bar_of(sigma: float) -> float:
    return 1.0 / (sigma**2 + 1.0)


def predict_at(
    model: Denoiser, x: Tensor, sigma: float, t: float, schedule: Schedule
) -> Prediction:
    """Ask the network about a sigma-space sample; eps and x0 are the same in both spaces."""
    return predict(model, variance_preserving(x, sigma), t, alpha_bar_of(sigma), schedule)


def sigma_step(
    index: int,
    rungs: Ladder,
    x: Tensor,
    prediction: Prediction,
    x_next: Tensor,
    step_noise: Tensor | None = None,
) -> Step:
    """The `Step` of a sigma-space sampler, with its samples made variance-preserving."""
    sigma, sigma_next = rungs.sigmas[index : index + 2]
    return Step(
        index,
        rungs.timesteps[index],
        alpha_bar_of(sigma),
        variance_preserving(x, sigma),
        *prediction,
        variance_preserving(x_next, sigma_next),
        step_noise,
    )
