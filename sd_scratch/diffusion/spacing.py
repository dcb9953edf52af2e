"""Named spacings of a ladder's levels, each a row of one of two tables.

One has spacings of timesteps, the other of sigmas between the ends of the model's own timesteps. A plus sign
adds a variation of another tool: ``karras+all``, see `MODIFIERS`.
"""

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sd_scratch.errors import UsageError


def leading(T: int, steps: int, offset: int) -> list[float]:
    """Multiples of T // steps plus the offset, lowered if the offset would leave the schedule.

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


def sgm_uniform(T: int, steps: int, offset: int) -> list[float]:
    """From T - 1 down in strides of (T - 1) / steps, without 0, as in Stability's generative-models."""
    timesteps = np.linspace(T - 1, 0, steps + 1)[:-1]
    return [float(t) for t in (np.floor(timesteps) if steps >= T else timesteps)]


def simple(T: int, steps: int, offset: int) -> list[float]:
    """From T - 1 down in strides of T / steps, cut to whole timesteps (ComfyUI and A1111)."""
    return [float(T - 1 - int(i * (T / steps))) for i in range(steps)]


def ddim_uniform(T: int, steps: int, offset: int) -> list[float]:
    """Every T // steps timesteps from 1 on, as many as fit: 30 steps are 31 (ComfyUI, and CompVis' DDIM)."""
    return [float(t) for t in range(1, T, T // steps)][::-1]


def beta_timesteps(T: int, steps: int, offset: int) -> list[float]:
    """`beta`'s quantiles on whole timesteps, without the lowest (ComfyUI). Beyond some 130 steps, equal ones
    are spread to neighbouring timesteps."""
    quantiles = _beta_quantiles([1.0 - i / steps for i in range(steps)], 0.6, 0.6)
    found: list[int] = []
    for i, t in enumerate(np.rint((quantiles * (T - 1)).round(6))):
        found.append(max(min(int(t), found[-1] - 1 if found else T), steps - 1 - i))
    return [float(t) for t in found]


LCM_STEPS = 50  # of the teacher's schedule that consistency models were distilled on


def lcm(T: int, steps: int, offset: int) -> list[float]:
    """Some of the `LCM_STEPS` timesteps that latent consistency models know, the first T - 1: 999, 759, 499, 259
    (Luo et al. 2023, arXiv:2310.04378, as diffusers has it). More than 50 steps are spaced as trailing."""
    if steps > LCM_STEPS or T < LCM_STEPS:
        return trailing(T, steps, offset)
    stride = T // LCM_STEPS
    known = [float((i + 1) * stride - 1) for i in reversed(range(LCM_STEPS))]
    return [known[i * LCM_STEPS // steps] for i in range(steps)]


def solver_linspace(T: int, steps: int, offset: int) -> list[float]:
    """From T - 1 down to 0, rounded, without the last one, as in diffusers' multistep solvers."""
    if steps >= T:
        return linspace(T, steps, offset)
    return [float(t) for t in np.linspace(0, T - 1, steps + 1).round()[:0:-1]]


def solver_leading(T: int, steps: int, offset: int) -> list[float]:
    """Multiples of T // (steps + 1) without 0, plus the offset, as in diffusers' multistep solvers."""
    stride = T // (steps + 1)
    if stride == 0:
        return leading(T, steps, offset)
    offset = min(offset, T - 1 - steps * stride)
    return [float(i * stride + offset) for i in range(steps, 0, -1)]


def karras(sigma_max: float, sigma_min: float, steps: int, rho: float = 7.0) -> list[float]:
    """Even steps in sigma^(1/rho) (Karras et al. 2022, equation 5): small ones near the image."""
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return [(high + i / max(steps - 1, 1) * (low - high)) ** rho for i in range(steps)]


def exponential(sigma_max: float, sigma_min: float, steps: int) -> list[float]:
    """Even steps in log sigma (k-diffusion)."""
    return [math.exp(u) for u in _even(math.log(sigma_max), math.log(sigma_min), steps)]


def polyexponential(
    sigma_max: float, sigma_min: float, steps: int, rho: float = 1.5
) -> list[float]:
    """Steps in log sigma that grow towards the noise: even ones, to the power of `rho` (k-diffusion, whose
    own default, 1, is `exponential`)."""
    low, high = math.log(sigma_min), math.log(sigma_max)
    return [math.exp(low + share**rho * (high - low)) for share in _even(1.0, 0.0, steps)]


def beta(
    sigma_max: float, sigma_min: float, steps: int, a: float = 0.6, b: float = 0.6
) -> list[float]:
    """Quantiles of a Beta distribution, dense at both ends (Lee et al. 2024, arXiv:2407.12173), between the two
    sigmas, as in A1111 and diffusers; `beta_timesteps` has them on timesteps."""
    quantiles = _beta_quantiles(_even(1.0, 0.0, steps), a, b)
    return [sigma_min + float(q) * (sigma_max - sigma_min) for q in quantiles]


def _beta_quantiles(shares: list[float], a: float, b: float) -> "np.ndarray[Any, Any]":
    # With x = sin^2(angle) the density x^(a-1) (1-x)^(b-1) has no poles, and a sum serves as its integral.
    angles = np.linspace(0.0, math.pi / 2, 200_001)
    middles = (angles[1:] + angles[:-1]) / 2
    mass = np.sin(middles) ** (2 * a - 1) * np.cos(middles) ** (2 * b - 1)
    below = np.concatenate([[0.0], np.cumsum(mass)]) / mass.sum()
    return np.sin(np.interp(shares, below, angles)) ** 2


def kl_optimal(sigma_max: float, sigma_min: float, steps: int) -> list[float]:
    """Even steps in arctan(sigma) (Sabour et al. 2024, arXiv:2404.14507)."""
    return [math.tan(u) for u in _even(math.atan(sigma_max), math.atan(sigma_min), steps)]


GENTLE = 0.025  # of sigma_max, which the first half of `linear_quadratic` goes down


def linear_quadratic(sigma_max: float, sigma_min: float, steps: int) -> list[float]:
    """Half of the steps down a line, the others down a parabola that continues its slope and ends at 0 (Mochi
    1, and ComfyUI). The lower end is not used."""
    half = steps // 2
    rise, rest = GENTLE / max(half, 1), steps - half
    bend = (1.0 - GENTLE - rise * rest) / rest**2
    return [sigma_max * (1.0 - rise * i - bend * max(i - half, 0) ** 2) for i in range(steps)]


AYS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)


def align_your_steps(sigma_max: float, sigma_min: float, steps: int) -> list[float]:
    """The sigmas that Sabour et al. 2024 (arXiv:2404.14507) found for SD 1.5, for other counts interpolated in log
    sigma. They belong to that model: the given ends are not used."""
    places = np.linspace(0.0, 1.0, len(AYS))
    logs = np.interp(np.linspace(0.0, 1.0, steps), places, np.log(AYS))
    return [float(sigma) for sigma in np.exp(logs)]


def _even(first: float, last: float, count: int) -> list[float]:
    """`count` numbers from `first` to `last`, evenly; a single one is the first."""
    return [first + i / max(count - 1, 1) * (last - first) for i in range(count)]


TIMESTEP_SPACINGS: dict[str, Callable[[int, int, int], list[float]]] = {
    "leading": leading,
    "linspace": linspace,
    "trailing": trailing,
    "sgm_uniform": sgm_uniform,
    "simple": simple,
    "ddim_uniform": ddim_uniform,
    "beta_timesteps": beta_timesteps,
    "lcm": lcm,
}
"""``f(T, steps, offset)``: falling timesteps in 0..T-1. A model's configuration names one as its own."""

SOLVER_SPACINGS = {"leading": solver_leading, "linspace": solver_linspace}

SIGMA_SPACINGS: dict[str, Callable[[float, float, int], list[float]]] = {
    "karras": karras,
    "exponential": exponential,
    "polyexponential": polyexponential,
    "beta": beta,
    "ays": align_your_steps,
    "kl_optimal": kl_optimal,
    "linear_quadratic": linear_quadratic,
}
"""``f(sigma_max, sigma_min, steps)``: falling sigmas with these ends."""

OWN = "discrete"  # the spacing that the model's configuration names
SPACINGS = (OWN, *TIMESTEP_SPACINGS, *SIGMA_SPACINGS)

MODIFIERS = {
    "all": "sigmas are spread between the first and the last of the whole schedule (A1111)",
    "cut": "one level more, and the last one left out (A1111 and ComfyUI, for DPM2)",
    "end": "the last level is where the walk ends, and no step begins there (A1111's DDIM and PLMS)",
    "whole": "the network is told whole timesteps (ComfyUI, and diffusers' KDPM2)",
    "solver": "as diffusers' multistep solvers: all, whole, from noise of unit variance",
    "stride": "DDIM goes 1000 // n timesteps down, past or short of the next (diffusers)",
    "last": "ends at the noise of t = 0 (diffusers' final_sigmas_type sigma_min)",
    "unit": "begins with noise of unit variance (ComfyUI)",
}
"""What may stand behind a name, each after a plus sign."""


@dataclass(frozen=True)
class Spacing:
    """A spacing's name, one of `SPACINGS`, and its modifiers."""

    name: str
    modifiers: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return "+".join((self.name, *(m for m in MODIFIERS if m in self.modifiers)))

    def has(self, *modifiers: str) -> bool:
        return not self.modifiers.isdisjoint(modifiers)

    def timesteps(self, own: str, T: int, steps: int, offset: int) -> list[float]:
        """Falling timesteps in 0..T-1; `own` is the spacing of the model's configuration."""
        name = self.name if self.name in TIMESTEP_SPACINGS else own
        spread = TIMESTEP_SPACINGS[name]
        if self.has("solver"):
            spread = SOLVER_SPACINGS.get(name, spread)
        found = spread(T, steps, offset)
        # The one that would be T is cut to T - 1 by A1111, and left out by ComfyUI.
        above = self.has("end") and name == "ddim_uniform" and found[0] + T // steps == T
        return [T - 1.0, *found] if above and found[0] < T - 1 else found

    def told(self, timesteps: tuple[float, ...]) -> tuple[float, ...]:
        """The network's input for timesteps between whole ones."""
        if not self.has("solver", "whole"):
            return timesteps
        if self.has("whole") or self.name == "karras":
            return tuple(float(round(t)) for t in timesteps)
        # diffusers cuts those of other sigmas, the last one a hair below T - 1.
        return tuple(float(max(math.ceil(t) - 1, 0)) for t in timesteps)


def find_spacing(written: str) -> Spacing:
    """A spacing by its name, in any case and with any punctuation, and modifiers. Raises `UsageError` with the nearest
    name."""
    name, *modifiers = str(written).split("+")
    name = {_letters(known): known for known in SPACINGS}.get(_letters(name), name)
    for word, known in ((name, SPACINGS), *((m, tuple(MODIFIERS)) for m in modifiers)):
        if word not in known:
            near = difflib.get_close_matches(word.lower(), known, n=1)
            hint = f" - did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"schedule {written!r} is unknown{hint} - choose from {', '.join(known)}"
            )
    return Spacing(name, frozenset(modifiers))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
