"""DPM-Solver++ for the stochastic equation, from earlier predictions: 2M SDE and 3M SDE.

Lu et al. 2022 (arXiv:2211.01095), section 5; the third order is Katherine Crowson's k-diffusion. With
h = log(sigma / sigma'), and H = (1 + eta) h the step that the equation with noise takes, the linear part is
solved exactly and x0 is a polynomial through the last predictions:

    x' = e^-H x + phi_1 x0 + phi_2 D1 - phi_3 D2 + sigma' sqrt(1 - e^(-2 eta h)) z
    phi_1 = 1 - e^-H,    phi_2 = 1 - phi_1 / H,    phi_3 = phi_2 / H - 1/2

D1 and D2 are the polynomial's derivatives over a step, from differences of the predictions. 2M SDE has phi_1
/ 2 instead of phi_2 in its "midpoint" form, and phi_2 in its "heun" form.
"""

import math
from collections import deque

from torch import Tensor

from sd_scratch.diffusion.samplers.sigma_space import (
    FEW,
    predict_at,
    resume,
    sigma_step,
    to_sigma_space,
)
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Steps, choice, fraction
from sd_scratch.diffusion.schedule import Ladder

SOLVERS = ("midpoint", "heun")


def dpmpp_2m_sde(
    model: Denoiser,
    x_t: Tensor,
    ladder: Ladder,
    draw: Draw,
    *,
    eta: float = 1.0,
    solver: str = "midpoint",
) -> Steps:
    """One model call a step, noise in every step except the last; ends at sigma = 0.

    `eta` is from 0 (no fresh noise) to 1, `solver` "midpoint" or "heun".
    Raises `UsageError` for other values.
    """
    choice("solver", solver, SOLVERS)
    fraction("eta", eta)
    return _multistep(model, x_t, ladder, draw, eta, 2, solver == "midpoint", lower=True)


def dpmpp_3m_sde(
    model: Denoiser,
    x_t: Tensor,
    ladder: Ladder,
    draw: Draw,
    *,
    eta: float = 1.0,
    solver: str = "heun",
    lower: bool = False,
) -> Steps:
    """The same with a third prediction. `eta` is from 0 to 1. `solver` is that of the steps with two
    predictions. `lower` says whether the last step but one of a ladder of less than 15 levels is such a step.
    diffusers and k-diffusion differ in both. Raises `UsageError` for other values."""
    choice("solver", solver, SOLVERS)
    fraction("eta", eta)
    return _multistep(model, x_t, ladder, draw, eta, 3, solver == "midpoint", lower)


def _multistep(
    model: Denoiser,
    x_t: Tensor,
    ladder: Ladder,
    draw: Draw,
    eta: float,
    order: int,
    midpoint: bool,
    lower: bool,
) -> Steps:
    sigmas = ladder.levels
    x = to_sigma_space(x_t, sigmas[0])
    images: deque[Tensor] = deque(maxlen=order)  # newest first
    for i, t in enumerate(ladder.timesteps):
        sigma, sigma_next = sigmas[i : i + 2]
        prediction = predict_at(model, x, sigma, t, ladder)
        images.appendleft(prediction.x0)
        step_noise = None
        if sigma_next == 0.0:
            x_next = prediction.x0
        else:
            h = math.log(sigma / sigma_next)
            H = (1.0 + eta) * h
            phi_1 = -math.expm1(-H)
            phi_2 = 1.0 - phi_1 / H
            x_next = math.exp(-H) * x + phi_1 * prediction.x0
            ratios = [
                math.log(sigmas[i - k] / sigmas[i - k + 1]) / h for k in range(1, len(images))
            ]
            used = min(len(images), len(ladder) - i if lower and len(ladder) < FEW else order)
            if used == 2:
                slope = (images[0] - images[1]) / ratios[0]
                x_next = x_next + (phi_1 / 2 if midpoint else phi_2) * slope
            elif used == 3:
                near = (images[0] - images[1]) / ratios[0]
                far = (images[1] - images[2]) / ratios[1]
                bend = (near - far) / (ratios[0] + ratios[1])
                phi_3 = phi_2 / H - 0.5
                x_next = x_next + phi_2 * (near + ratios[0] * bend) - phi_3 * bend
            up = sigma_next * math.sqrt(-math.expm1(-2.0 * eta * h))
            if up > 0.0:
                step_noise = draw()
                x_next = x_next + up * step_noise
        sent = yield sigma_step(i, ladder, x, prediction, x_next, step_noise)
        x = resume(x_next, sent, sigma_next)
