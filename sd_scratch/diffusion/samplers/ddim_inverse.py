"""DDIM backwards: from a picture to the noise from which DDIM makes it.

Without fresh noise a step of DDIM is one of an ordinary differential equation (Song et al. 2021,
arXiv:2010.02502, section 4.3), which runs both ways. A step up goes from alpha_bar to the noisier alpha_bar'.
The network predicts for the present sample at the timestep of alpha_bar':

    x' = sqrt(alpha_bar') x0 + sqrt(1 - alpha_bar') eps

It is exact for infinitely many steps. With guidance the error grows: invert without (guidance 1).
"""

from torch import Tensor

from sd_scratch.diffusion.prediction import interpret, noised
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Step, Steps
from sd_scratch.diffusion.schedule import Ladder


def ddim_inverse(model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw) -> Steps:
    """Up the ladder from a picture's latent at t = 0, where DDIM would end. The last `Step.x_next` is its
    noise."""
    t, alpha_bar = 0.0, ladder.final_alpha_bar
    levels = zip(reversed(ladder.timesteps), reversed(ladder.alpha_bars), strict=True)
    for i, (t_next, alpha_bar_next) in enumerate(levels):
        raw = model(x_t, t_next)
        eps, x0 = interpret(raw, x_t, alpha_bar, ladder.schedule.config.prediction_type)
        x_next = noised(x0, eps, alpha_bar_next)
        sent = yield Step(i, t, alpha_bar, x_t, eps, x0, x_next)
        x_t = x_next if sent is None else sent
        t, alpha_bar = t_next, alpha_bar_next
