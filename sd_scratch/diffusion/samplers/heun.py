"""Heun's method on dx / dsigma = eps: average the slopes at both ends of Euler's step.

Algorithm 2 of Karras et al. 2022 (arXiv:2206.00364) without churn.
"""

from torch import Tensor

from sd_scratch.diffusion.samplers.sigma_space import predict_at, resume, sigma_step, to_sigma_space
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Steps
from sd_scratch.diffusion.schedule import Ladder


def heun(model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw) -> Steps:
    """Deterministic: `draw` is never called. Ends at sigma = 0, where the last step is Euler's.

    Model calls: two a step and one in the last.
    """
    sigmas = ladder.levels
    x = to_sigma_space(x_t, sigmas[0])
    for i, t in enumerate(ladder.timesteps):
        sigma, sigma_next = sigmas[i : i + 2]
        prediction = predict_at(model, x, sigma, t, ladder)
        slope = prediction.eps
        if i < len(ladder) - 1:
            ahead = x + (sigma_next - sigma) * slope
            there = predict_at(model, ahead, sigma_next, ladder.timesteps[i + 1], ladder)
            slope = (slope + there.eps) / 2
        x_next = x + (sigma_next - sigma) * slope
        sent = yield sigma_step(i, ladder, x, prediction, x_next)
        x = resume(x_next, sent, sigmas[i + 1])
