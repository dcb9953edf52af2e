"""The view in which noise is added and nothing else happens: x = x0 + sigma eps.

Karras et al. 2022 (arXiv:2206.00364). A variance-preserving sample turns into one of these by
x = x_t / sqrt(alpha_bar) = x_t sqrt(sigma^2 + 1), and the way back to the image is a plain ordinary
differential equation (their equation 4 with this scaling):

    dx / dsigma = eps(x, sigma)

LMS, Euler, Heun and the DPM solvers are ways to integrate it along a ladder of falling sigmas.
"""

import math

from torch import Tensor

from sd_scratch.diffusion.prediction import Prediction
from sd_scratch.diffusion.samplers.step import Denoiser, Step, predict
from sd_scratch.diffusion.schedule import Ladder


def to_sigma_space(x_t: Tensor, sigma: float) -> Tensor:
    """A variance-preserving sample as x0 + sigma eps: times sqrt(sigma^2 + 1)."""
    return x_t * math.hypot(sigma, 1.0)


def variance_preserving(x: Tensor, sigma: float) -> Tensor:
    """x = x0 + sigma eps as the network sees it: divided by sqrt(sigma^2 + 1)."""
    return x / math.hypot(sigma, 1.0)


def resume(x_next: Tensor, sent: Tensor | None, sigma: float) -> Tensor:
    """Where to go on: at the sampler's own x_next, or at a variance-preserving one that was sent."""
    return x_next if sent is None else to_sigma_space(sent, sigma)


def ancestral(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """How far down a step goes, and how much fresh noise it adds to stand at `sigma_next`: (down, up).

    The noise has `eta` times the standard deviation of DDPM's posterior (k-diffusion), eta from 0 to 1.
    """
    up = eta * sigma_next * math.sqrt(1.0 - (sigma_next / sigma) ** 2)
    return math.sqrt(sigma_next**2 - up**2), up


FEW = 15


def lowers(ladder: Ladder, i: int, order: int = 2) -> int:
    """The order that a multistep method has at rung i of its end, at most `order`.

    The last step to sigma = 0 has order 1, because log sigma has no value there, and the one before it 2. On
    the way to another sigma that is so, as in diffusers, on ladders of less than 15 rungs.
    """
    if ladder.final_sigma == 0.0 or len(ladder) < FEW:
        return min(order, len(ladder) - i)
    return order


def alpha_bar_of(sigma: float) -> float:
    return 1.0 / (sigma**2 + 1.0)


def predict_at(model: Denoiser, x: Tensor, sigma: float, t: float, ladder: Ladder) -> Prediction:
    """Ask the network about a sigma-space sample; eps and x0 are the same in both spaces."""
    return predict(model, variance_preserving(x, sigma), t, alpha_bar_of(sigma), ladder)


def sigma_step(
    index: int,
    ladder: Ladder,
    x: Tensor,
    prediction: Prediction,
    x_next: Tensor,
    step_noise: Tensor | None = None,
) -> Step:
    """The `Step` of a sigma-space sampler, with its samples made variance-preserving."""
    sigma, sigma_next = ladder.levels[index : index + 2]
    return Step(
        index,
        ladder.timesteps[index],
        alpha_bar_of(sigma),
        variance_preserving(x, sigma),
        *prediction,
        variance_preserving(x_next, sigma_next),
        step_noise,
    )
