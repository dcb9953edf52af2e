"""UniPC: a multistep predictor, and a corrector without a call of its own: it uses the next step's.

Zhao et al. 2023 (arXiv:2302.04867), algorithms 1 and 2 for x0, with B(h) = e^h - 1 (their B_2), or h (B_1). With
lambda = -log sigma, h its step, and r_m the earlier predictions' distances in units of h,

    x' = (sigma' / sigma) x + (1 - e^-h) (x0 + sum_m a_m D_m),    D_m = (x0_m - x0) / r_m

The a solve a small linear system that makes the formula exact for polynomials. The predictor uses earlier
predictions. After the call at the predicted x', the corrector repeats the step with that prediction among the
others, at r = 1, and the next step starts from there.
"""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from sd_scratch.diffusion.samplers.sigma_space import predict_at, resume, sigma_step, to_sigma_space
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Steps, choice
from sd_scratch.diffusion.schedule import Ladder

ORDERS = (1, 2, 3)
VARIANTS = ("bh2", "bh1")


def unipc(
    model: Denoiser,
    x_t: Tensor,
    ladder: Ladder,
    draw: Draw,
    *,
    order: int = 2,
    variant: str = "bh2",
) -> Steps:
    """Deterministic: `draw` is never called. One model call a step; ends at sigma = 0.

    `order`, 1 to 3, is the predictor's; the corrector adds one. The first and the last steps have less.
    `variant` is the paper's B: "bh2", or "bh1", which differs with one earlier prediction.
    Raises `UsageError` for other values.
    """
    choice("order", order, ORDERS)
    choice("variant", variant, VARIANTS)
    sigmas = ladder.levels
    x = to_sigma_space(x_t, sigmas[0])
    images: list[Tensor] = []  # newest first
    from_x: Tensor | None = None  # where the last step started, for the corrector
    used = 0
    for i, t in enumerate(ladder.timesteps):
        sigma, sigma_next = sigmas[i : i + 2]
        prediction = predict_at(model, x, sigma, t, ladder)
        corrected = x
        if from_x is not None:
            corrected = _advance(from_x, images[:used], sigmas, i - 1, variant, prediction.x0)
        images = [prediction.x0, *images[: order - 1]]
        used = min(order, i + 1, len(ladder) - i)
        if sigma_next == 0.0:
            x_next = prediction.x0
        else:
            x_next = _advance(corrected, images[:used], sigmas, i, variant)
        sent = yield sigma_step(i, ladder, x, prediction, x_next)
        x = resume(x_next, sent, sigma_next)
        from_x = corrected if sent is None else None


def _advance(
    x: Tensor,
    images: Sequence[Tensor],
    sigmas: Sequence[float],
    i: int,
    variant: str,
    ahead: Tensor | None = None,
) -> Tensor:
    """From level i to the next with the predictions there and before, and the one `ahead` if it is known."""
    sigma, sigma_next = sigmas[i : i + 2]
    h = math.log(sigma / sigma_next)
    ratios = [-math.log(sigmas[i - m] / sigma) / h for m in range(1, len(images))]
    others = list(images[1:])
    if ahead is not None:
        ratios, others = [*ratios, 1.0], [*others, ahead]
    gain = -math.expm1(-h)
    image = images[0]
    result = (sigma_next / sigma) * x + gain * image
    known = weights(h, ratios)
    if variant == "bh1" and len(known) == 1:
        known = [known[0] * h / gain]
    for weight, ratio, other in zip(known, ratios, others, strict=True):
        result = result + (gain * weight / ratio) * (other - image)
    return result


def weights(h: float, ratios: Sequence[float]) -> list[float]:
    """The a_m of equation 13: sum_m a_m r_m^(k-1) = k! phi_(k+1)(-h) / B(h) for k = 1, 2, ...

    A single one is 1/2 for any h, as the paper sets it for its B_2.
    """
    if len(ratios) <= 1:
        return [0.5] * len(ratios)
    b_h = math.expm1(-h)
    phi, factorial, right = b_h / -h - 1.0, 1.0, []
    for k in range(1, len(ratios) + 1):
        right.append(phi * factorial / b_h)
        factorial *= k + 1
        phi = phi / -h - 1.0 / factorial
    left = np.array([[ratio**k for ratio in ratios] for k in range(len(ratios))])
    return [float(a) for a in np.linalg.solve(left, np.array(right))]
