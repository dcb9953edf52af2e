"""The frame of methods that look once into each step: two model calls a step, fresh noise or none.

`dpm2`, `dpmpp_2s_a` and `dpmpp_sde` differ in where a step looks and in what it makes of the answer.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sd_scratch.diffusion.prediction import Prediction
from sd_scratch.diffusion.samplers.sigma_space import (
    ancestral,
    predict_at,
    resume,
    sigma_step,
    to_sigma_space,
)
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Steps
from sd_scratch.diffusion.schedule import Ladder


@dataclass(frozen=True)
class Stride:
    """One step at its beginning.

    Attributes:
        x: the sample in sigma space, at `sigma`.
        first: the network's answer there.
        down, up: where the step goes from `sigma` before fresh noise brings it to `sigma_next`.
    """

    x: Tensor
    first: Prediction
    sigma: float
    sigma_next: float
    down: float
    up: float


Look = Callable[[Tensor, float], Prediction]
"""``look(x, sigma)``: the network's answer between two rungs."""

Move = Callable[[Stride, Look], tuple[Tensor, Tensor | None]]
"""What a method makes of a step: the sample at its end, and the noise that is in it already."""


def single_step(
    model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw, eta: float, move: Move
) -> Steps:
    """Take `move` at every rung. Where it has added no noise of its own, `Stride.up` is added afterwards."""
    sigmas = ladder.levels
    x = to_sigma_space(x_t, sigmas[0])

    def look(x: Tensor, sigma: float) -> Prediction:
        return predict_at(model, x, sigma, ladder.schedule.timestep_at(sigma), ladder)

    for i, t in enumerate(ladder.timesteps):
        sigma, sigma_next = sigmas[i : i + 2]
        prediction = predict_at(model, x, sigma, t, ladder)
        stride = Stride(x, prediction, sigma, sigma_next, *ancestral(sigma, sigma_next, eta))
        x_next, step_noise = move(stride, look)
        if step_noise is None and stride.up > 0.0:
            step_noise = draw()
            x_next = x_next + stride.up * step_noise
        sent = yield sigma_step(i, ladder, x, prediction, x_next, step_noise)
        x = resume(x_next, sent, sigma_next)
