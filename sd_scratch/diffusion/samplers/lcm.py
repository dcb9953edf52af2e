"""LCM: the sampler of latent consistency models, which predict the end of the path at once.

Luo et al. 2023 (arXiv:2310.04378), algorithm 3. The network's x0 is mixed with x_t, so at t = 0 it is x_t
itself (Song et al. 2023, arXiv:2303.01469, equation 5), and noised again to the next level:

    f  = c_skip x_t + c_out x0,    c_skip = d^2 / ((10 t)^2 + d^2),    c_out = 10 t / sqrt((10 t)^2 + d^2),    d = 1/2
    x' = sqrt(alpha_bar') f + sqrt(1 - alpha_bar') z
"""

import math

from torch import Tensor

from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Step, Steps, predict
from sd_scratch.diffusion.schedule import Ladder

SIGMA_DATA = 0.5
TIME_SCALE = 10.0


def lcm(model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw) -> Steps:
    """One model call a step, noise in every step except the last, which ends at the network's own prediction.

    It needs a model distilled for it, 1 to 8 steps, and guidance 1 to 2.
    """
    alpha_bars = (*ladder.signals, ladder.final_alpha_bar)
    for i, t in enumerate(ladder.timesteps):
        here, there = alpha_bars[i : i + 2]
        eps, x0 = predict(model, x_t, t, here, ladder)
        scaled = TIME_SCALE * t
        c_skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        c_out = scaled / math.sqrt(scaled**2 + SIGMA_DATA**2)
        x_next = c_out * x0 + c_skip * x_t
        step_noise = None
        if i < len(ladder) - 1:
            step_noise = draw()
            x_next = math.sqrt(there) * x_next + math.sqrt(1.0 - there) * step_noise
        sent = yield Step(i, t, ladder.alpha_bars[i], x_t, eps, x0, x_next, step_noise)
        x_t = x_next if sent is None else sent
