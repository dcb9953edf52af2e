"""Approximations that skip a part of a run's work, each by its name. They change the picture.

    interval   guidance only in the middle of the schedule, the prompt's branch elsewhere: a wrapper of the loop
               (Kynkaanniemi et al. 2024, arXiv:2404.07724, equation 6)
    delta      only the prompt's branch in most calls; the effect of guidance is forecast: a wrapper of the loop
               (Lv et al. 2024, arXiv:2410.19355, section 3.3, there without a forecast)
    deepcache  features from below are kept between calls, and only the U-Net's last layers are computed
               (Ma et al. 2023, arXiv:2312.00858, section 3.3): `unet.up_blocks.*.concat.*`, kept
    tgate      cross-attention's outputs are kept once they have settled, their mean over both branches, and
               guidance ends (Zhang et al. 2024, arXiv:2404.02747, algorithm 1): an edit of `attn2.out`
    tome       the most similar of the finest places are merged before self-attention, parted after it
               (Bolya and Hoffman 2023, arXiv:2303.17604, section 3): an edit of `norm1` and `attn1.out`

A run is planned call by call before it starts (`plan`), which also says what will be missing. `shallow` runs
only the U-Net's last layers, `edits` record and replace named tensors, `merge` merges places.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sd_scratch.errors import UsageError


@dataclass(frozen=True)
class Interval:
    """Guidance only for noise levels sigma above `low` and not above `high`."""

    low: float = 0.28
    high: float = 5.42


@dataclass(frozen=True)
class Delta:
    """Both branches in one call in `every` (with `deepcache` only in whole calls); in the others their
    difference is forecast along a polynomial of `order` through the last known ones."""

    every: int = 3
    order: int = 1


@dataclass(frozen=True)
class DeepCache:
    """One call in `every` is whole; the others compute the last `layers` layers of the way up. There the
    features from below are forecast along a polynomial of `order` through the last whole calls (Liu et al.
    2025, arXiv:2503.06923): 0 keeps the last ones."""

    every: int = 3
    layers: int = 1
    order: int = 1


@dataclass(frozen=True)
class TGate:
    """Cross-attention is reused from this share of the calls on."""

    gate: float = 0.4


@dataclass(frozen=True)
class ToMe:
    """The share of places that are merged away, at most three in four."""

    ratio: float = 0.5


Approximation = Interval | Delta | DeepCache | TGate | ToMe
KINDS: dict[str, type[Approximation]] = {
    "interval": Interval,
    "delta": Delta,
    "deepcache": DeepCache,
    "tgate": TGate,
    "tome": ToMe,
}
NAMES = {kind: name for name, kind in KINDS.items()}
RANGES: dict[str, tuple[float, float]] = {
    "low": (0.0, math.inf),
    "high": (0.0, math.inf),
    "every": (1, 1000),
    "layers": (1, 100),
    "order": (0, 3),
    "gate": (0.0, 1.0),
    "ratio": (0.0, 0.75),
}
BEST: tuple[Approximation, ...] = (Interval(high=math.inf), Delta(every=4), DeepCache(every=4))
"""What `fast` means without a name."""

Fast = str | Sequence[Approximation]


def read_fast(fast: Fast) -> tuple[Approximation, ...]:
    """``deepcache:every=5,tome`` as data; "best" is `BEST`, and nothing is exact.

    Raises UsageError for an unknown name, option or value, and for a name given twice.
    """
    if not isinstance(fast, str):
        found: list[Any] = list(fast) if isinstance(fast, Sequence) else [fast]
    elif fast == "best":
        return BEST
    else:
        found = [_read_one(text.strip()) for text in fast.split(",") if text.strip()]
    kinds = [type(each) for each in found]
    for each in found:
        if type(each) not in NAMES or kinds.count(type(each)) > 1:
            raise UsageError(f"fast: {each!r} is unknown or given twice")
    return tuple(sorted(found, key=lambda each: list(NAMES).index(type(each))))


def show_fast(fast: Sequence[Approximation]) -> str:
    """The inverse of `read_fast`, with every option."""
    return ",".join(
        ":".join([NAMES[type(each)], *(f"{f.name}={getattr(each, f.name)}" for f in fields(each))])
        for each in fast
    )


def _read_one(text: str) -> Approximation:
    name, *pairs = text.split(":")
    if name not in KINDS:
        raise UsageError(
            f"fast: {name[:40]!r} is unknown - choose from {', '.join(KINDS)}, or best"
        )
    known: dict[str, Any] = {f.name: f.default for f in fields(KINDS[name])}
    values: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key not in known:
            raise UsageError(f"fast: {name} has no option {key[:40]!r} - it has {', '.join(known)}")
        try:
            number = type(known[key])(value)
        except ValueError:
            number = math.nan
        low, high = RANGES[key]
        if not low <= number <= high:
            raise UsageError(f"fast: {name}'s {key} is a number from {low:g} to {high:g}")
        values[key] = number
    return KINDS[name](**values)
