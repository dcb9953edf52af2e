"""TCD: trajectory consistency distillation, which goes below the next level and adds noise.

Zheng et al. 2024 (arXiv:2402.19159), algorithm 4. With s the timestep (1 - eta) t' and alpha_bar_s its level,

    x_s = sqrt(alpha_bar_s) x0 + sqrt(1 - alpha_bar_s) eps
    x'  = sqrt(alpha_bar' / alpha_bar_s) x_s + sqrt(1 - alpha_bar' / alpha_bar_s) z
"""

import math

from torch import Tensor

from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Step, Steps, fraction, predict
from sd_scratch.diffusion.schedule import Ladder


def tcd(model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw, *, eta: float = 0.3) -> Steps:
    """One model call a step, noise in every step except the last; ends at the schedule's `final_alpha_bar`.

    `eta`, the paper's gamma, is from 0 (DDIM) to 1 (all noise is fresh). It needs a model distilled for it.
    Raises `UsageError` for another eta.
    """
    fraction("eta", eta)
    alpha_bars = (*ladder.signals, ladder.final_alpha_bar)
    for i, t in enumerate(ladder.timesteps):
        here, there = alpha_bars[i : i + 2]
        eps, x0 = predict(model, x_t, t, here, ladder)
        step_noise = None
        if i == len(ladder) - 1 or eta == 0.0:
            x_next = math.sqrt(there) * x0 + math.sqrt(1.0 - there) * eps
        else:
            below = ladder.schedule.alpha_bar_at(math.floor((1.0 - eta) * ladder.timesteps[i + 1]))
            x_s = math.sqrt(below) * x0 + math.sqrt(1.0 - below) * eps
            step_noise = draw()
            x_next = math.sqrt(there / below) * x_s + math.sqrt(1.0 - there / below) * step_noise
        sent = yield Step(i, t, ladder.alpha_bars[i], x_t, eps, x0, x_next, step_noise)
        x_t = x_next if sent is None else sent
