"""LMS: a linear multistep method in sigma, with weights for uneven steps.

Adams and Bashforth's method, from Katherine Crowson's k-diffusion: put the Lagrange polynomial through the
last k slopes eps, and integrate it over the next step,

    x_{i+1} = x_i + sum_j w_j eps_{i-j}
    w_j     = integral from sigma_i to sigma_{i+1} of
              prod_{k != j} (s - sigma_{i-k}) / (sigma_{i-j} - sigma_{i-k}) ds
"""

import math
from collections import deque
from collections.abc import Sequence

from torch import Tensor

from sd_scratch.diffusion.samplers.sigma_space import predict_at, resume, sigma_step, to_sigma_space
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Steps, choice, weighted
from sd_scratch.diffusion.schedule import Ladder

ORDERS = (1, 2, 3, 4)


def lms(model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw, *, order: int = 4) -> Steps:
    """Deterministic: `draw` is never called. One model call a step; ends at sigma = 0.

    `order`, 1 to 4, is the number of slopes, once there are so many; order 1 is Euler's method.
    Raises `UsageError` for another order.
    """
    choice("order", order, ORDERS)
    sigmas = ladder.levels
    slopes: deque[Tensor] = deque(maxlen=order)  # newest first
    x = to_sigma_space(x_t, sigmas[0])
    for i, t in enumerate(ladder.timesteps):
        prediction = predict_at(model, x, sigmas[i], t, ladder)
        slopes.appendleft(prediction.eps)

        nodes = [sigmas[i - j] for j in range(len(slopes))]
        x_next = x + weighted(lagrange_weights(nodes, sigmas[i + 1]), slopes)
        sent = yield sigma_step(i, ladder, x, prediction, x_next)
        x = resume(x_next, sent, sigmas[i + 1])


def lagrange_weights(nodes: Sequence[float], end: float) -> list[float]:
    """The integral, from `nodes[0]` to `end`, of each Lagrange basis polynomial on `nodes`.

    Gauss and Legendre's rule with two points has no error for polynomials up to the third degree,
    hence none for up to four nodes.
    """
    middle, half = (nodes[0] + end) / 2, (end - nodes[0]) / 2
    points = (middle - half / math.sqrt(3), middle + half / math.sqrt(3))
    return [half * sum(_basis(nodes, j, s) for s in points) for j in range(len(nodes))]


def _basis(nodes: Sequence[float], j: int, s: float) -> float:
    """Lagrange's polynomial at `s` that is 1 at node j and 0 at the others."""
    others = [node for k, node in enumerate(nodes) if k != j]
    return math.prod((s - other) / (nodes[j] - other) for other in others)
