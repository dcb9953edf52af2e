"""DPM-Solver-2: take the slope half way ahead for the whole step.

Lu et al. 2022 (arXiv:2206.00927), algorithm 1, on sigmas, as in Katherine Crowson's k-diffusion. Half way is
half way in log sigma,

    sigma_mid = sqrt(sigma sigma')
    x_mid     = x + (sigma_mid - sigma) eps(x, sigma)
    x'        = x + (sigma' - sigma) eps(x_mid, sigma_mid)

The ancestral form goes to a level below sigma' and adds fresh noise, like `euler_a`.
"""

import math

from torch import Tensor

from sd_scratch.diffusion.samplers.single_step import Look, Stride, single_step
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Steps, fraction
from sd_scratch.diffusion.schedule import Ladder


def dpm2(model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw) -> Steps:
    """Deterministic: `draw` is never called. Ends at sigma = 0, where the last step is Euler's.

    Model calls: two a step and one in the last.
    """
    return single_step(model, x_t, ladder, draw, 0.0, _slope_half_way)


def dpm2_a(model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw, *, eta: float = 1.0) -> Steps:
    """The same with fresh noise in every step except the last.

    `eta` is from 0 (`dpm2`) to 1. Raises `UsageError` for another eta.
    """
    fraction("eta", eta)
    return single_step(model, x_t, ladder, draw, eta, _slope_half_way)


def _slope_half_way(stride: Stride, look: Look) -> tuple[Tensor, None]:
    x, sigma, slope = stride.x, stride.sigma, stride.first.eps
    if stride.down > 0.0:
        middle = math.sqrt(sigma * stride.down)
        slope = look(x + (middle - sigma) * slope, middle).eps
    return x + (stride.down - sigma) * slope, None
