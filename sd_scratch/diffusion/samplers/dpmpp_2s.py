"""DPM-Solver++ in single steps: each step of a cycle of 2 or 3 levels starts from the cycle's first sample.

Lu et al. 2022 (arXiv:2211.01095), appendix B, on a ladder's own levels, as in diffusers. From the sample x at the
cycle's first sigma to the next level sigma', with h = log(sigma / sigma'),

    x' = (sigma' / sigma) x + phi_1 x0 + (phi_1 / 2 or phi_2) D1,    phi_1 = 1 - e^-h,    phi_2 = 1 - phi_1 / h

x0 is the cycle's first prediction. The first step of a cycle has D1 = 0; a later one takes the slope of the
predictions over log sigma, (x0 at the newest level - x0) h / log(sigma / its sigma).
"""

import math

from torch import Tensor

from sd_scratch.diffusion.samplers.sigma_space import predict_at, resume, sigma_step, to_sigma_space
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Steps, choice
from sd_scratch.diffusion.schedule import Ladder

ORDERS = (2, 3)
SOLVERS = ("midpoint", "heun")


def dpmpp_2s(
    model: Denoiser,
    x_t: Tensor,
    ladder: Ladder,
    draw: Draw,
    *,
    order: int = 2,
    solver: str = "midpoint",
) -> Steps:
    """Deterministic: `draw` is never called. One model call a step; ends at sigma = 0.

    `order`, 2 or 3, is the number of levels of a cycle; the last step is Euler's. `solver`, "midpoint" or
    "heun", chooses phi_1 / 2 or phi_2 for the second step of a cycle. Raises `UsageError` for other values.
    """
    choice("order", order, ORDERS)
    choice("solver", solver, SOLVERS)
    sigmas = ladder.levels
    x = begun = to_sigma_space(x_t, sigmas[0])
    images: list[Tensor] = []  # of the cycle, oldest first
    for i, t in enumerate(ladder.timesteps):
        sigma, sigma_next = sigmas[i : i + 2]
        prediction = predict_at(model, x, sigma, t, ladder)
        if not images or i % order == 0 or i == len(ladder) - 1:
            begun, images = x, []
        images.append(prediction.x0)
        first = sigmas[i + 1 - len(images)]
        x_next = (sigma_next / first) * begun + (1.0 - sigma_next / first) * images[0]
        if len(images) > 1:
            h = math.log(first / sigma_next)
            phi_1 = 1.0 - sigma_next / first
            slope = (images[-1] - images[0]) * (h / math.log(first / sigma))
            half = len(images) == 2 and solver == "midpoint"
            x_next = x_next + (phi_1 / 2 if half else 1.0 - phi_1 / h) * slope
        sent = yield sigma_step(i, ladder, x, prediction, x_next)
        if sent is not None:  # the cycle began from another sample
            images = []
        x = resume(x_next, sent, sigma_next)
