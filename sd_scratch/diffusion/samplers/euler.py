"""Euler's method on dx / dsigma = eps: go straight to the next sigma.

Algorithm 2 of Karras et al. 2022 (arXiv:2206.00364) without its second-order correction and churn.
On the schedule's own sigmas this is DDIM without noise, in other coordinates.
"""

from torch import Tensor

from sd_scratch.diffusion.samplers.sigma_space import predict_at, resume, sigma_step, to_sigma_space
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Steps
from sd_scratch.diffusion.schedule import Ladder


def euler(model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw) -> Steps:
    """Deterministic: `draw` is never called. One model call a step; ends at sigma = 0."""
    sigmas = ladder.levels
    x = to_sigma_space(x_t, sigmas[0])
    for i, t in enumerate(ladder.timesteps):
        sigma, sigma_next = sigmas[i : i + 2]
        prediction = predict_at(model, x, sigma, t, ladder)
        x_next = x + (sigma_next - sigma) * prediction.eps
        sent = yield sigma_step(i, ladder, x, prediction, x_next)
        x = resume(x_next, sent, sigmas[i + 1])
