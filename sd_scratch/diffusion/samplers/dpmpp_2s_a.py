"""DPM-Solver++(2S) with ancestral noise: x0 half way ahead, then the linear part solved exactly with it.

Lu et al. 2022 (arXiv:2211.01095), algorithm 1, with the noise of k-diffusion's ancestral samplers. With s =
sqrt(sigma down) half way in log sigma, and "down" the level to which a step goes before noise is added,

    x_mid = (s / sigma) x + (1 - s / sigma) x0(x, sigma)
    x'    = (down / sigma) x + (1 - down / sigma) x0(x_mid, s) + up z
"""

import math

from torch import Tensor

from sd_scratch.diffusion.samplers.single_step import Look, Stride, single_step
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Steps, fraction
from sd_scratch.diffusion.schedule import Ladder


def dpmpp_2s_a(
    model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw, *, eta: float = 1.0
) -> Steps:
    """Two model calls a step and one in the last, noise in every step except the last; ends at sigma = 0.

    `eta` is from 0 (no fresh noise) to 1. Raises `UsageError` for another eta.
    """
    fraction("eta", eta)
    return single_step(model, x_t, ladder, draw, eta, _image_half_way)


def _image_half_way(stride: Stride, look: Look) -> tuple[Tensor, None]:
    x, sigma, down, image = stride.x, stride.sigma, stride.down, stride.first.x0
    if down > 0.0:
        middle = math.sqrt(sigma * down)
        image = look((middle / sigma) * x + (1.0 - middle / sigma) * image, middle).x0
    return (down / sigma) * x + (1.0 - down / sigma) * image, None
