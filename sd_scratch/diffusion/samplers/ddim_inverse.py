"""DDIM backwards: from a picture to the noise that DDIM makes it from.

Without fresh noise a step of DDIM is one of an ordinary differential equation (Song et al. 2021,
arXiv:2010.02502, section 4.3), which runs both ways. The way up goes from alpha_bar to alpha_bar',
the noisier one, at whose timestep the network is asked about the sample that is there already:

    x' = sqrt(alpha_bar') x0 + sqrt(1 - alpha_bar') eps

It is exact for infinitely many steps. With guidance the error grows: invert without (guidance 1).
"""

from torch import Tensor

from sd_scratch.diffusion.prediction import interpret, noised
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Step, Steps
from sd_scratch.diffusion.schedule import Ladder


def ddim_inverse(model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw) -> Steps:
    """Up the ladder from a picture's latent, where DDIM would end, at t = 0; the last `Step.x_next` is
    its noise."""
    t, alpha_bar = 0.0, ladder.final_alpha_bar
    levels = zip(reversed(ladder.timesteps), reversed(ladder.alpha_bars), strict=True)
    for i, (t_next, alpha_bar_next) in enumerate(levels):
        raw = model(x_t, t_next)
        eps, x0 = interpret(raw, x_t, alpha_bar, ladder.schedule.config.prediction_type)
        x_next = noised(x0, eps, alpha_bar_next)
        sent = yield Step(i, t, alpha_bar, x_t, eps, x0, x_next)
        x_t = x_next if sent is None else sent
        t, alpha_bar = t_next, alpha_bar_next
