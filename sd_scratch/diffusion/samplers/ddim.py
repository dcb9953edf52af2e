"""DDIM: keep the predicted image and noise, and mix them again with less noise.

Song et al. 2021 (arXiv:2010.02502), equations 12 and 16, for a step from alpha_bar to the next
visited alpha_bar':

    x'    = sqrt(alpha_bar') x0 + sqrt(1 - alpha_bar' - sigma^2) eps + sigma z,    z ~ N(0, 1)
    sigma = eta sqrt((1 - alpha_bar') / (1 - alpha_bar)) sqrt(1 - alpha_bar / alpha_bar')

eta = 0 is deterministic; eta = 1 has the variance of DDPM's "fixed_small".
"""

import math

from torch import Tensor

from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Step, Steps, fraction, predict
from sd_scratch.diffusion.schedule import Ladder


def ddim(model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw, *, eta: float = 0.0) -> Steps:
    """One model call a step; ends at the ladder's `final_alpha_bar`.

    `eta` is from 0 (no noise, the default) to 1.
    Raises `UsageError` for another eta.
    """
    fraction("eta", eta)
    ways = zip(ladder.timesteps, ladder.signals, ladder.landings, strict=True)
    for i, (t, here, there) in enumerate(ways):
        eps, x0 = predict(model, x_t, t, here, ladder)

        sigma = eta * math.sqrt((1.0 - there) / (1.0 - here) * (1.0 - here / there))
        x_next = math.sqrt(there) * x0 + math.sqrt(1.0 - there - sigma**2) * eps

        step_noise = None
        if sigma > 0.0:
            step_noise = draw()
            x_next = x_next + sigma * step_noise
        sent = yield Step(i, t, ladder.alpha_bars[i], x_t, eps, x0, x_next, step_noise)
        x_t = x_next if sent is None else sent
