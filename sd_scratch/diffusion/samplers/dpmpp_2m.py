"""DPM-Solver++(2M): the linear part of the equation solved exactly, x0 extrapolated from two steps.

Lu et al. 2022 (arXiv:2211.01095), algorithm 2. With lambda = -log sigma and h the step in lambda,

    x' = (sigma' / sigma) x + (1 - sigma' / sigma) D
    D  = x0 + (x0 - x0 of the step before) h / (2 h of the step before)

The first step, which has no step before it, and the last, where h is infinite, take D = x0.
"""

import math

from torch import Tensor

from sd_scratch.diffusion.samplers.sigma_space import ladder, predict_at, resume, sigma_step
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Steps
from sd_scratch.diffusion.schedule import Schedule


def dpmpp_2m(
    model: Denoiser,
    noise: Tensor,
    schedule: Schedule,
    steps: int,
    draw: Draw,
    *,
    sigmas: str = "discrete",
) -> Steps:
    """Deterministic: `draw` is never called. One model call a step; ends at sigma = 0.

    `sigmas` is "discrete" (the schedule's own) or "karras".
    Raises `UsageError` for another spacing or for steps outside 1..T.
    """
    rungs = ladder(schedule, steps, sigmas)
    x = rungs.start * noise
    x0_before: Tensor | None = None
    for i, t in enumerate(rungs.timesteps):
        sigma, sigma_next = rungs.sigmas[i : i + 2]
        prediction = predict_at(model, x, sigma, t, schedule)

        image = prediction.x0
        if x0_before is not None and sigma_next > 0.0:
            step_ratio = math.log(sigma / sigma_next) / math.log(rungs.sigmas[i - 1] / sigma)
            image = image + (step_ratio / 2) * (image - x0_before)
        x_next = (sigma_next / sigma) * x + (1.0 - sigma_next / sigma) * image
        sent = yield sigma_step(i, rungs, x, prediction, x_next)
        x, x0_before = resume(x_next, sent, rungs.sigmas[i + 1]), prediction.x0
