"""Euler's method with ancestral noise: go below the next level, then add fresh noise up to it.

Katherine Crowson's k-diffusion. The added noise has the variance of DDPM's posterior,

    up^2   = eta^2 sigma'^2 (sigma^2 - sigma'^2) / sigma^2
    down^2 = sigma'^2 - up^2

so eta = 1 on the schedule's own sigmas is DDPM with its small variance, in other coordinates.
"""

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


def euler_a(model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw, *, eta: float = 1.0) -> Steps:
    """One model call a step, and noise in every step except the last; ends at sigma = 0.

    `eta` is from 0 (Euler's method) to 1. Raises `UsageError` for another.
    """
    fraction("eta", eta)
    sigmas = ladder.levels
    x = to_sigma_space(x_t, sigmas[0])
    for i, t in enumerate(ladder.timesteps):
        sigma, sigma_next = sigmas[i : i + 2]
        down, up = ancestral(sigma, sigma_next, eta)
        prediction = predict_at(model, x, sigma, t, ladder)
        x_next = x + (down - sigma) * prediction.eps

        step_noise = None
        if up > 0.0:
            step_noise = draw()
            x_next = x_next + up * step_noise
        sent = yield sigma_step(i, ladder, x, prediction, x_next, step_noise)
        x = resume(x_next, sent, sigmas[i + 1])
