"""DPM-Solver++(2M): the linear part of the equation solved exactly, x0 extrapolated from two steps.

Lu et al. 2022 (arXiv:2211.01095), algorithm 2. With lambda = -log sigma and h the step in lambda,

    x' = (sigma' / sigma) x + (1 - sigma' / sigma) D
    D  = x0 + (x0 - x0 of the step before) h / (2 h of the step before)

The first step, without a step before it, and the last, where h is infinite, take D = x0.
"""

import math

from torch import Tensor

from sd_scratch.diffusion.samplers.sigma_space import (
    lowers,
    predict_at,
    resume,
    sigma_step,
    to_sigma_space,
)
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Steps
from sd_scratch.diffusion.schedule import Ladder


def dpmpp_2m(model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw) -> Steps:
    """Deterministic: `draw` is never called. One model call a step; ends at sigma = 0."""
    sigmas = ladder.levels
    x = to_sigma_space(x_t, sigmas[0])
    x0_before: Tensor | None = None
    for i, t in enumerate(ladder.timesteps):
        sigma, sigma_next = sigmas[i : i + 2]
        prediction = predict_at(model, x, sigma, t, ladder)

        image = prediction.x0
        if x0_before is not None and lowers(ladder, i) > 1:
            step_ratio = math.log(sigma / sigma_next) / math.log(sigmas[i - 1] / sigma)
            image = image + (step_ratio / 2) * (image - x0_before)
        x_next = (sigma_next / sigma) * x + (1.0 - sigma_next / sigma) * image
        sent = yield sigma_step(i, ladder, x, prediction, x_next)
        x, x0_before = resume(x_next, sent, sigmas[i + 1]), prediction.x0
