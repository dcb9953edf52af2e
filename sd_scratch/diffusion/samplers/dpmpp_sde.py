"""DPM-Solver++ for the stochastic equation, two calls a step (k-diffusion's DPM++ SDE).

Lu et al. 2022 (arXiv:2211.01095), section 5, in Katherine Crowson's single-step form. Both halves of a step are
ancestral, and their noises belong to one Brownian path W over sigma: the increment over the whole step is the
sum of those over its halves. With n = (W(sigma) - W(s)) / sqrt(sigma - s) for each piece, unit variance,

    x_mid = (down_s / sigma) x + (1 - down_s / sigma) x0(x, sigma) + up_s n(sigma, s)
    x'    = (down / sigma) x + (1 - down / sigma) x0(x_mid, s) + up n(sigma, sigma')
"""

import math

from torch import Tensor

from sd_scratch.diffusion.samplers.sigma_space import (
    ancestral,
    predict_at,
    resume,
    sigma_step,
    to_sigma_space,
)
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Steps, fraction
from sd_scratch.diffusion.schedule import Ladder


def dpmpp_sde(
    model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw, *, eta: float = 1.0
) -> Steps:
    """Two model calls and two draws a step; one call and none in the last, which ends at sigma = 0.

    `eta` is from 0 (no fresh noise) to 1. Raises `UsageError` for another eta.
    """
    fraction("eta", eta)
    sigmas = (*ladder.sigmas, 0.0)
    x = to_sigma_space(x_t, sigmas[0])
    for i, t in enumerate(ladder.timesteps):
        sigma, sigma_next = sigmas[i : i + 2]
        prediction = predict_at(model, x, sigma, t, ladder)
        step_noise = None
        if sigma_next == 0.0:
            x_next = prediction.x0
        else:
            middle = math.sqrt(sigma * sigma_next)
            first, second = (draw(), draw()) if eta > 0.0 else (0.0 * x, 0.0 * x)
            down, up = ancestral(sigma, middle, eta)
            half_way = (down / sigma) * x + (1.0 - down / sigma) * prediction.x0 + up * first
            t_middle = ladder.schedule.timestep_at(middle)
            image = predict_at(model, half_way, middle, t_middle, ladder).x0

            share = (sigma - middle) / (sigma - sigma_next)
            whole = math.sqrt(share) * first + math.sqrt(1.0 - share) * second
            down, up = ancestral(sigma, sigma_next, eta)
            x_next = (down / sigma) * x + (1.0 - down / sigma) * image + up * whole
            step_noise = whole if eta > 0.0 else None
        sent = yield sigma_step(i, ladder, x, prediction, x_next, step_noise)
        x = resume(x_next, sent, sigma_next)
