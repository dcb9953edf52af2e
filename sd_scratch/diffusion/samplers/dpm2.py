"""DPM-Solver-2: look half way ahead, and take the slope found there for the whole step.

Lu et al. 2022 (arXiv:2206.00927), algorithm 1, as Katherine Crowson's k-diffusion has it on sigmas. Half way is
half way in log sigma,

    sigma_mid = sqrt(sigma sigma')
    x_mid     = x + (sigma_mid - sigma) eps(x, sigma)
    x'        = x + (sigma' - sigma) eps(x_mid, sigma_mid)

The ancestral form goes down to a level below sigma', and puts fresh noise back, as `euler_a` does.
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


def dpm2(model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw) -> Steps:
    """Deterministic: `draw` is never called. Ends at sigma = 0, where the last step is Euler's.

    Model calls: two a step and one in the last.
    """
    return _dpm2(model, x_t, ladder, draw, 0.0)


def dpm2_a(model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw, *, eta: float = 1.0) -> Steps:
    """The same with fresh noise in every step but the last.

    `eta` is from 0 (`dpm2`) to 1. Raises `UsageError` for another eta.
    """
    fraction("eta", eta)
    return _dpm2(model, x_t, ladder, draw, eta)


def _dpm2(model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw, eta: float) -> Steps:
    sigmas = (*ladder.sigmas, 0.0)
    x = to_sigma_space(x_t, sigmas[0])
    for i, t in enumerate(ladder.timesteps):
        sigma, sigma_next = sigmas[i : i + 2]
        down, up = ancestral(sigma, sigma_next, eta)
        prediction = predict_at(model, x, sigma, t, ladder)
        slope = prediction.eps
        if down > 0.0:
            middle = math.sqrt(sigma * down)
            half_way = x + (middle - sigma) * slope
            t_middle = ladder.schedule.timestep_at(middle)
            slope = predict_at(model, half_way, middle, t_middle, ladder).eps
        x_next = x + (down - sigma) * slope

        step_noise = None
        if up > 0.0:
            step_noise = draw()
            x_next = x_next + up * step_noise
        sent = yield sigma_step(i, ladder, x, prediction, x_next, step_noise)
        x = resume(x_next, sent, sigma_next)
