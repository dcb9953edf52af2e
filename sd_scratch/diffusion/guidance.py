"""Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598)."""

import math

from torch import Tensor

from sd_scratch.errors import UsageError


def guide(eps_uncond: Tensor, eps_cond: Tensor, scale: float) -> Tensor:
    """Walk from the unconditional prediction through the conditional one, `scale` times as far.

    `scale` is the number of SD's command lines, 1 + w of the paper's equation 6: 0 is the
    unconditional prediction, 1 the conditional one (both exactly), more than 1 exaggerates what the
    text adds. The rule is linear, so it serves eps, v and x0 alike.
    Raises `UsageError` when `scale` is not finite.
    """
    if not math.isfinite(scale):
        raise UsageError(f"guidance scale {scale} is not a number - give 0 to 30")
    if scale == 1.0:
        return eps_cond
    return eps_uncond + scale * (eps_cond - eps_uncond)
