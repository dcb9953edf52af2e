"""DPM-Solver++(2S) with ancestral noise: x0 half way ahead, then the linear part solved exactly with it.

Lu et al. 2022 (arXiv:2211.01095), algorithm 1, with the noise of k-diffusion's ancestral samplers. With
s = sqrt(sigma down) half way in log sigma, and "down" the level to which a step goes before noise is put back,

    x_mid = (s / sigma) x + (1 - s / sigma) x0(x, sigma)
    x'    = (down / sigma) x + (1 - down / sigma) x0(x_mid, s) + up z
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


def dpmpp_2s_a(
    model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw, *, eta: float = 1.0
) -> Steps:
    """Two model calls a step and one in the last, noise in every step but the last; ends at sigma = 0.

    `eta` is from 0 (no fresh noise) to 1. Raises `UsageError` for another eta.
    """
    fraction("eta", eta)
    sigmas = (*ladder.sigmas, 0.0)
    x = to_sigma_space(x_t, sigmas[0])
    for i, t in enumerate(ladder.timesteps):
        sigma, sigma_next = sigmas[i : i + 2]
        down, up = ancestral(sigma, sigma_next, eta)
        prediction = predict_at(model, x, sigma, t, ladder)
        image = prediction.x0
        if down > 0.0:
            middle = math.sqrt(sigma * down)
            half_way = (middle / sigma) * x + (1.0 - middle / sigma) * image
            t_middle = ladder.schedule.timestep_at(middle)
            image = predict_at(model, half_way, middle, t_middle, ladder).x0
        x_next = (down / sigma) * x + (1.0 - down / sigma) * image

        step_noise = None
        if up > 0.0:
            step_noise = draw()
            x_next = x_next + up * step_noise
        sent = yield sigma_step(i, ladder, x, prediction, x_next, step_noise)
        x = resume(x_next, sent, sigma_next)
