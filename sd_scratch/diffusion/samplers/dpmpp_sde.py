"""DPM-Solver++ for the stochastic equation, two calls a step (k-diffusion's DPM++ SDE).

Lu et al. 2022 (arXiv:2211.01095), section 5, in Katherine Crowson's single-step form. Both halves of a step are
ancestral, and their noises belong to one Brownian path W over sigma: the increment over the whole step is the
sum of those over its halves. With n = (W(sigma) - W(s)) / sqrt(sigma - s) for each piece, unit variance,

    x_mid = (down_s / sigma) x + (1 - down_s / sigma) x0(x, sigma) + up_s n(sigma, s)
    x'    = (down / sigma) x + (1 - down / sigma) x0(x_mid, s) + up n(sigma, sigma')
"""

import math

from torch import Tensor

from sd_scratch.diffusion.samplers.sigma_space import ancestral
from sd_scratch.diffusion.samplers.single_step import Look, Stride, single_step
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Steps, fraction
from sd_scratch.diffusion.schedule import Ladder


def dpmpp_sde(
    model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw, *, eta: float = 1.0
) -> Steps:
    """Two model calls and two draws a step; one call and none in the last, which ends at sigma = 0.

    `eta` is from 0 (no fresh noise) to 1. Raises `UsageError` for another eta.
    """
    fraction("eta", eta)

    def move(stride: Stride, look: Look) -> tuple[Tensor, Tensor | None]:
        x, sigma, sigma_next, image = stride.x, stride.sigma, stride.sigma_next, stride.first.x0
        if sigma_next == 0.0:
            return image, None
        middle = math.sqrt(sigma * sigma_next)
        first, second = (draw(), draw()) if eta > 0.0 else (0.0 * x, 0.0 * x)
        down, up = ancestral(sigma, middle, eta)
        half_way = (down / sigma) * x + (1.0 - down / sigma) * image + up * first
        image = look(half_way, middle).x0

        share = (sigma - middle) / (sigma - sigma_next)
        whole = math.sqrt(share) * first + math.sqrt(1.0 - share) * second
        down, up = stride.down, stride.up
        x_next = (down / sigma) * x + (1.0 - down / sigma) * image + up * whole
        return x_next, whole if eta > 0.0 else None

    return single_step(model, x_t, ladder, draw, eta, move)
