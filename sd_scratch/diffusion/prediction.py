"""Three ways to say the same thing: the noise eps, the clean image x0, the velocity v.

With a = sqrt(alpha_bar) and s = sqrt(1 - alpha_bar), a^2 + s^2 = 1:

    x_t = a x0 + s eps
    v   = a eps - s x0            (Salimans and Ho 2022, arXiv:2202.00512, appendix D)

so (x_t, v) is (x0, eps) turned by the angle arctan(s / a): given x_t, any one of the three gives the other
two. All tensors have the shape of x_t, ``[B, ...]``; `alpha_bar`, in (0, 1), is one
float for the batch or a ``[B]`` tensor.
"""

import math
from typing import NamedTuple

from torch import Tensor

from sd_scratch import limits

PREDICTION_TYPES = limits.PREDICTION_TYPES
"""What a network may predict, as diffusers names it: eps, v or x0."""


class Prediction(NamedTuple):
    """A network's output as noise and clean image."""

    eps: Tensor
    x0: Tensor


def interpret(raw: Tensor, x_t: Tensor, alpha_bar: float | Tensor, kind: str) -> Prediction:
    """The network's `raw` output at `x_t` as noise and clean image; `kind` is a prediction type."""
    if kind == "epsilon":
        return Prediction(raw, x0_from_eps(raw, x_t, alpha_bar))
    if kind == "v_prediction":
        return Prediction(eps_from_v(raw, x_t, alpha_bar), x0_from_v(raw, x_t, alpha_bar))
    return Prediction(eps_from_x0(raw, x_t, alpha_bar), raw)


def thresholded(x0: Tensor, ratio: float, largest: float) -> Tensor:
    """Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3): each image is clipped at the
    `ratio` quantile of its absolute values, from 1 to `largest`, and divided by it."""
    cut = x0.flatten(1).float().abs().quantile(ratio, dim=1).clamp(1.0, largest)
    cut = cut.to(x0).reshape(-1, *[1] * (x0.dim() - 1))  # [B, 1, ...]
    return x0.clamp(-cut, cut) / cut


def target(x0: Tensor, eps: Tensor, alpha_bar: float | Tensor, kind: str) -> Tensor:
    """The training target for prediction type `kind`."""
    if kind == "epsilon":
        return eps
    if kind == "v_prediction":
        return velocity(x0, eps, alpha_bar)
    return x0


def noised(x0: Tensor, eps: Tensor, alpha_bar: float | Tensor) -> Tensor:
    a, s = _roots(alpha_bar, x0)
    return a * x0 + s * eps


def velocity(x0: Tensor, eps: Tensor, alpha_bar: float | Tensor) -> Tensor:
    a, s = _roots(alpha_bar, x0)
    return a * eps - s * x0


def x0_from_eps(eps: Tensor, x_t: Tensor, alpha_bar: float | Tensor) -> Tensor:
    a, s = _roots(alpha_bar, x_t)
    return (x_t - s * eps) / a


def eps_from_x0(x0: Tensor, x_t: Tensor, alpha_bar: float | Tensor) -> Tensor:
    a, s = _roots(alpha_bar, x_t)
    return (x_t - a * x0) / s


def x0_from_v(v: Tensor, x_t: Tensor, alpha_bar: float | Tensor) -> Tensor:
    a, s = _roots(alpha_bar, x_t)
    return a * x_t - s * v


def eps_from_v(v: Tensor, x_t: Tensor, alpha_bar: float | Tensor) -> Tensor:
    a, s = _roots(alpha_bar, x_t)
    return s * x_t + a * v


def _roots(alpha_bar: float | Tensor, like: Tensor) -> tuple[float, float] | tuple[Tensor, Tensor]:
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), shaped to multiply `like`."""
    if not isinstance(alpha_bar, Tensor):
        return math.sqrt(alpha_bar), math.sqrt(1.0 - alpha_bar)
    alpha_bar = alpha_bar.reshape(-1, *[1] * (like.dim() - 1))  # [B, 1, ...]
    return alpha_bar.sqrt().to(like), (1.0 - alpha_bar).sqrt().to(like)
