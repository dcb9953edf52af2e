"""Euler's method on dx / dsigma = eps: go straight ahead until the next sigma.

Algorithm 2 of Karras et al. 2022 (arXiv:2206.00364) without its second-order correction and churn.
On the schedule's own sigmas this is DDIM without noise, in other coordinates.
"""

from torch import Tensor

from sd_scratch.diffusion.samplers.sigma_space import ladder, predict_at, resume, sigma_step
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Steps
from sd_scratch.diffusion.schedule import Schedule


def euler(
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
    for i, t in enumerate(rungs.timesteps):
        sigma, sigma_next = rungs.sigmas[i : i + 2]
        prediction = predict_at(model, x, sigma, t, schedule)
        x_next = x + (sigma_next - sigma) * prediction.eps
        sent = yield sigma_step(i, rungs, x, prediction, x_next)
        x = resume(x_next, sent, rungs.sigmas[i + 1])
