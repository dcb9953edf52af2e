"""How the rungs of a ladder are spread: named spacings, each a row of one of two tables.

Spacings of timesteps, and spacings of sigmas between the ends that the model's own timesteps have.
"""

import difflib
from collections.abc import Callable

import numpy as np

from sd_scratch.errors import UsageError


def leading(T: int, steps: int, offset: int) -> list[float]:
    """Multiples of T // steps plus the offset, lowered where the offset would leave the schedule.

    The first timestep may lie well below T - 1: with T = 1000, 501 to 999 steps have stride 1.
    """
    stride = T // steps
    offset = min(offset, T - 1 - (steps - 1) * stride)
    return [float(i * stride + offset) for i in reversed(range(steps))]


def linspace(T: int, steps: int, offset: int) -> list[float]:
    """From T - 1 down to 0, both included."""
    return [float(t) for t in np.linspace(0, T - 1, steps)[::-1]]


def trailing(T: int, steps: int, offset: int) -> list[float]:
    """From T - 1 down in strides of T / steps, rounded."""
    # Cut because accumulated rounding sometimes lets `arange` run one element too far.
    return [float(t) - 1.0 for t in np.round(np.arange(T, 0, -T / steps))[:steps]]


def karras(sigma_max: float, sigma_min: float, steps: int, rho: float = 7.0) -> list[float]:
    """Even steps in sigma^(1/rho) (Karras et al. 2022, equation 5): small ones near the image."""
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return [(high + i / max(steps - 1, 1) * (low - high)) ** rho for i in range(steps)]


TIMESTEP_SPACINGS: dict[str, Callable[[int, int, int], list[float]]] = {
    "leading": leading,
    "linspace": linspace,
    "trailing": trailing,
}
"""``f(T, steps, offset)``: falling timesteps in 0..T-1. A model's configuration names one as its own."""

SIGMA_SPACINGS: dict[str, Callable[[float, float, int], list[float]]] = {
    "karras": karras,
}
"""``f(sigma_max, sigma_min, steps)``: falling sigmas with these ends."""

OWN = "discrete"  # the spacing that the model's configuration names
SPACINGS = (OWN, *TIMESTEP_SPACINGS, *SIGMA_SPACINGS)


def check_spacing(name: str) -> None:
    """`UsageError` unless the spacing is one of `SPACINGS`, with the nearest name."""
    if name not in SPACINGS:
        near = difflib.get_close_matches(str(name).lower(), SPACINGS, n=1)
        hint = f" - did you mean {near[0]}?" if near else ""
        raise UsageError(f"schedule {name!r} is unknown{hint} - choose from {', '.join(SPACINGS)}")
