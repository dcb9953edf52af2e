"""DDPM: walk back through the noise as it was added, with fresh noise at every step.

Ho et al. 2020 (arXiv:2006.11239). From one visited timestep, with alpha_bar', to the next noisier
one, with alpha_bar, the noise added was beta = 1 - alpha_bar / alpha_bar', and the posterior of x'
given x_t and x0 is Gaussian (equations 6 and 7):

    mean     = sqrt(alpha_bar') beta / (1 - alpha_bar) x0
             + sqrt(1 - beta) (1 - alpha_bar') / (1 - alpha_bar) x_t
    variance = (1 - alpha_bar') / (1 - alpha_bar) beta        "fixed_small", right for a known x0
               beta                                           "fixed_large", right for x0 ~ N(0, 1)
"""

import math

from torch import Tensor

from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Step, Steps, choice, predict
from sd_scratch.diffusion.schedule import Ladder

VARIANCES = ("fixed_small", "fixed_large")


def ddpm(
    model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw, *, variance: str = "fixed_small"
) -> Steps:
    """Ancestral sampling; one model call a step, and noise in every step except the last.

    `variance` is "fixed_small" or "fixed_large", section 3.2 of the paper.
    Raises `UsageError` for another variance.
    """
    choice("variance", variance, VARIANCES)
    alpha_bars = (*ladder.signals, 1.0)
    for i, t in enumerate(ladder.timesteps):
        here, there = alpha_bars[i], alpha_bars[i + 1]
        eps, x0 = predict(model, x_t, t, here, ladder)

        beta = 1.0 - here / there
        from_x0 = math.sqrt(there) * beta / (1.0 - here)
        from_x_t = math.sqrt(1.0 - beta) * (1.0 - there) / (1.0 - here)
        x_next = from_x0 * x0 + from_x_t * x_t

        step_noise = None
        if i < len(ladder) - 1:
            small = variance == "fixed_small"
            sigma = math.sqrt(beta * (1.0 - there) / (1.0 - here) if small else beta)
            step_noise = draw()
            x_next = x_next + sigma * step_noise
        sent = yield Step(i, t, ladder.alpha_bars[i], x_t, eps, x0, x_next, step_noise)
        x_t = x_next if sent is None else sent
