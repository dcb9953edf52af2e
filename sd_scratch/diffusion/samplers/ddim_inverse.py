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
from sd_scratch.diffusion.schedule import Schedule


def ddim_inverse(
    model: Denoiser, picture: Tensor, schedule: Schedule, steps: int, draw: Draw
) -> Steps:
    """From the latent of a picture, where DDIM would end; the last `Step.x_next` is its noise.

    A step's `t` is where it goes, `alpha_bar` where it comes from.
    Raises `UsageError` for steps outside 1..T.
    """
    timesteps = schedule.timesteps(steps)[::-1]
    x_t, here = picture, schedule.final_alpha_bar
    for i, t in enumerate(timesteps):
        raw = model(x_t, float(t))
        eps, x0 = interpret(raw, x_t, here, schedule.config.prediction_type)
        there = schedule.alpha_bar_at(t)
        x_next = noised(x0, eps, there)
        sent = yield Step(i, t, here, x_t, eps, x0, x_next)
        x_t, here = x_next if sent is None else sent, there
