"""Heun's method on dx / dsigma = eps: look where Euler's step leads, and average both slopes.

Algorithm 2 of Karras et al. 2022 (arXiv:2206.00364) without churn.
"""

from torch import Tensor

from sd_scratch.diffusion.samplers.sigma_space import ladder, predict_at, resume, sigma_step
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Steps
from sd_scratch.diffusion.schedule import Schedule


def heun(
    model: Denoiser,
    noise: Tensor,
    schedule: Schedule,
    steps: int,
    draw: Draw,
    *,
    sigmas: str = "discrete",
) -> Steps:
    """Deterministic: `draw` is never called. Ends at sigma = 0, where the last step is Euler's.

    Model calls: two a step and one in the last. `sigmas` is "discrete" (the schedule's own) or
    "karras". Raises `UsageError` for another spacing or for steps outside 1..T.
    """
    rungs = ladder(schedule, steps, sigmas)
    x = rungs.start * noise
    for i, t in enumerate(rungs.timesteps):
        sigma, sigma_next = rungs.sigmas[i : i + 2]
        prediction = predict_at(model, x, sigma, t, schedule)
        slope = prediction.eps
        if i < steps - 1:
            ahead = x + (sigma_next - sigma) * slope
            there = predict_at(model, ahead, sigma_next, rungs.timesteps[i + 1], schedule)
            slope = (slope + there.eps) / 2
        x_next = x + (sigma_next - sigma) * slope
        sent = yield sigma_step(i, rungs, x, prediction, x_next)
        x = resume(x_next, sent, rungs.sigmas[i + 1])
