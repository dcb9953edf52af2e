"""DEIS: linear multistep like LMS, with polynomials in log sigma, where the slope bends less.

Zhang and Chen 2022 (arXiv:2204.13902), the log-rho form of section 3. The polynomial through the last slopes
eps is in u = log sigma, and is integrated over the next step,

    x' = x + sum_j w_j eps_j,    w_j = integral from sigma to sigma' of L_j(log s) ds

L_j is 1 at the log sigma of eps_j and 0 at the others'.
"""

import math
from collections import deque
from collections.abc import Sequence

from torch import Tensor

from sd_scratch.diffusion.samplers.sigma_space import (
    lowers,
    predict_at,
    resume,
    sigma_step,
    to_sigma_space,
)
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Steps, choice, weighted
from sd_scratch.diffusion.schedule import Ladder

ORDERS = (1, 2, 3)


def deis(model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw, *, order: int = 2) -> Steps:
    """Deterministic: `draw` is never called. One model call a step; ends at sigma = 0.

    `order`, 1 to 3, is the number of slopes, once there are so many. The last step takes one (Euler's method),
    because log sigma has no value at its end, and the step before it two. Raises `UsageError` for another order.
    """
    choice("order", order, ORDERS)
    sigmas = ladder.levels
    x = to_sigma_space(x_t, sigmas[0])
    slopes: deque[Tensor] = deque(maxlen=order)  # newest first
    for i, t in enumerate(ladder.timesteps):
        sigma, sigma_next = sigmas[i : i + 2]
        prediction = predict_at(model, x, sigma, t, ladder)
        cut = ladder.schedule.config.thresholding  # which moves x0 away from where eps leads
        slopes.appendleft((x - prediction.x0) / sigma if cut else prediction.eps)
        used = min(len(slopes), lowers(ladder, i, order))
        if sigma_next == 0.0:
            x_next = prediction.x0
        else:
            nodes = [sigmas[i - j] for j in range(used)]
            x_next = x + weighted(log_weights(nodes, sigma_next), list(slopes)[:used])
        sent = yield sigma_step(i, ladder, x, prediction, x_next)
        x = resume(x_next, sent, sigma_next)


def log_weights(nodes: Sequence[float], end: float) -> list[float]:
    """The integral, from `nodes[0]` to `end`, of each Lagrange polynomial in log sigma over sigma.

    With u = log s the integrand is a polynomial times e^u. Its powers integrate by parts,
    I_k = [u^k e^u] - k I_(k-1).
    """
    u = [math.log(node / nodes[0]) for node in nodes]  # from the first node: small numbers
    low, high = 0.0, math.log(end / nodes[0])
    powers = [math.expm1(high) * nodes[0]]
    for k in range(1, len(nodes)):
        ends = nodes[0] * (high**k * math.exp(high) - low**k)
        powers.append(ends - k * powers[-1])
    return [
        sum(c * power for c, power in zip(_coefficients(u, j), powers, strict=True))
        for j in range(len(nodes))
    ]


def _coefficients(u: Sequence[float], j: int) -> list[float]:
    """Lagrange's polynomial that is 1 at u_j and 0 at the others, by rising powers."""
    polynomial = [1.0]
    for k, other in enumerate(u):
        if k != j:
            scale = u[j] - other
            shifted = [0.0, *polynomial]
            kept = [*(-other * c for c in polynomial), 0.0]
            polynomial = [(a + b) / scale for a, b in zip(shifted, kept, strict=True)]
    return polynomial
