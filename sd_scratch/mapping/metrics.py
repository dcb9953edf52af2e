"""How good a map is: against a mask of where the thing is, against another map, by cutting places.

Maps are ``[h, w]``, masks boolean ``[h, w]``, the places of both the same; results are plain
numbers, computed in fp64 on the CPU. Raises ScratchError for a map that is not finite, for an empty
mask, and for shapes that differ. Equal values are never put in an order: a metric
of ranks takes them all at once, so that no result depends on where in the picture ties stand.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sd_scratch.errors import ScratchError, UsageError


@dataclass(frozen=True)
class Interval:
    """A mean, and the bounds between which the mean of other samples like it would lie."""

    mean: float
    low: float
    high: float


def pointing_game(values: Tensor, mask: Tensor, tolerance: float = 0.0) -> float:
    """1 if the largest value lies in the mask or at most `tolerance` pixels from it, else 0.

    Zhang et al. 2016 (arXiv:1608.00507), who allow 15 pixels. Where several values are the
    largest, it is the share of them that hits: a constant map gets what chance gets (`pointing_chance`).
    """
    values, mask = _checked(values, mask)
    peaks = values == values.max()
    return float(_widened(mask, tolerance)[peaks].double().mean())


def pointing_chance(mask: Tensor, tolerance: float = 0.0) -> float:
    """What `pointing_game` gives on average for a place drawn at random: 0 to 1.

    The share of the places that hit, which is the mask's share of the picture and its margin's.
    """
    return float(_widened(_checked_mask(mask), tolerance).double().mean())


def mass_in_mask(values: Tensor, mask: Tensor) -> float:
    """The share of the sum of all positive values that lies in the mask: 0 to 1.

    Arras et al. 2020 (arXiv:2003.07258), "relevance mass accuracy". A constant map gives the mask's
    share of the picture. Raises ScratchError if no value is positive.
    """
    values, mask = _checked(values, mask)
    positive = values.clamp(min=0.0)
    total = float(positive.sum())
    if total == 0.0:
        raise ScratchError(
            "the map has no positive value - no mass to share out - use its magnitude"
        )
    return float(positive[mask].sum()) / total


def iou_of_maximum(values: Tensor, mask: Tensor, share: float = 0.4) -> float:
    """Intersection over union of the mask and the values of at least `share` of the largest.

    Tang et al. 2023 (arXiv:2210.04885), with 0.4. ScratchError if no value is
    positive, as a share of the largest is then no threshold, and unless `share` is in (0, 1].
    """
    values, mask = _checked(values, mask)
    if not 0.0 < share <= 1.0:
        raise UsageError(f"a share of the largest value is above 0 and at most 1, not {share}")
    largest = float(values.max())
    if largest <= 0.0:
        raise ScratchError("the map has no positive value - no threshold follows from its maximum")
    return _iou(values >= share * largest, mask)


def iou_at_mean(values: Tensor, mask: Tensor) -> float:
    """Intersection over union of the mask and the values of at least the mean value.

    Helbling et al. 2025 (arXiv:2502.04320). ScratchError for a constant map, whose values are
    above or below their mean by rounding alone.
    """
    values, mask = _checked(values, mask)
    _require_variation(values)
    return _iou(values >= values.mean(), mask)


def best_iou(values: Tensor, mask: Tensor) -> float:
    """The largest intersection over union that any threshold gives.

    Never less than the mask's share of the picture, which the lowest threshold gives.
    """
    chosen, hits, size = _hits_by_threshold(*_checked(values, mask))
    return float((hits / (chosen + size - hits)).max())


def average_precision(values: Tensor, mask: Tensor) -> float:
    """Precision, averaged over recall, of finding the mask's pixels by their values: 0 to 1.

    ``sum_n (R_n - R_(n-1)) P_n`` over all distinct thresholds from the highest down, where P_n is
    the share of the chosen pixels that lie in the mask and R_n the share of the mask that is
    chosen: no interpolation. A constant map gives the mask's share of the picture.
    """
    chosen, hits, size = _hits_by_threshold(*_checked(values, mask))
    gained = torch.diff(hits, prepend=hits.new_zeros(1)) / size
    return float((gained * hits / chosen).sum())


def spearman(first: Tensor, second: Tensor) -> float:
    """Rank correlation of two maps of one shape: -1 to 1.

    Spearman 1904: Pearson's correlation of the ranks; equal values all have the mean of the ranks
    that they take up. ScratchError for a constant map, whose ranks do not vary.
    """
    first, second = _checked_map(first), _checked_map(second)
    _require_one_shape(first, second)
    _require_variation(first)
    _require_variation(second)
    a, b = (ranks - ranks.mean() for ranks in (_mean_ranks(first), _mean_ranks(second)))
    return float((a @ b) / (a.norm() * b.norm()))


def deletion_area(values: Tensor, score: Callable[[Tensor], float], steps: int = 20) -> float:
    """Area under the score while places are taken away, those of the largest values first.

    Petsiuk et al. 2018 (arXiv:1806.07421). A good map makes the score fall early: the
    smaller the better. The area is over the share of places taken away, 0 to 1, by trapezoids.

    Args:
        values: ``[h, w]``.
        score: what is left of the effect if only these places are kept, boolean ``[h, w]``.
        steps: into how many equal parts to cut the places; equal values are cut off together.
    """
    values = _checked_map(values)
    return _area(values, lambda chosen: score(~chosen), steps)


def insertion_area(values: Tensor, score: Callable[[Tensor], float], steps: int = 20) -> float:
    """Area under the score while places are added to none, those of the largest values first.

    The counterpart of `deletion_area`, with the same arguments: the larger the better.
    """
    return _area(_checked_map(values), score, steps)


def bootstrap_interval(
    samples: Tensor, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean of independent samples ``[n]``, n >= 2, with its percentile bootstrap interval.

    Efron 1979: the means of `resamples` draws of n with replacement, between their quantiles
    (1 -+ confidence) / 2. Draws come from a generator of their own. Samples that share a scene or
    a seed are not independent: take their mean first.
    """
    if samples.ndim != 1 or len(samples) < 2:
        raise UsageError(f"samples are [n] with n >= 2, not {list(samples.shape)}")
    if not 0.0 < confidence < 1.0 or resamples < 1:
        raise UsageError("confidence lies between 0 and 1, and resamples are at least 1")
    samples = _finite(samples, "the samples")
    generator = torch.Generator().manual_seed(seed)
    n = len(samples)
    draws = torch.randint(n, (resamples, n), generator=generator)
    means = samples[draws].mean(dim=1)
    tail = (1.0 - confidence) / 2.0
    return Interval(
        mean=float(samples.mean()),
        low=float(means.quantile(tail)),
        high=float(means.quantile(1.0 - tail)),
    )


def _finite(values: Tensor, name: str) -> Tensor:
    values = values.detach().to("cpu", torch.float64)
    if not bool(values.isfinite().all()):
        raise ScratchError(
            f"{name} hold NaN or infinity - likely an overflow of half precision - use float32"
        )
    return values


def _checked_map(values: Tensor) -> Tensor:
    if values.ndim != 2 or values.numel() == 0:
        raise UsageError(f"a map is [h, w], not {list(values.shape)} - measure one map a call")
    return _finite(values, "the values of the map")


def _checked_mask(mask: Tensor) -> Tensor:
    if mask.ndim != 2 or mask.dtype != torch.bool:
        kind = f"{list(mask.shape)} of {str(mask.dtype).removeprefix('torch.')}"
        raise UsageError(f"a mask is [h, w] of bool, not {kind} - compare it with a threshold")
    if not bool(mask.any()):
        raise ScratchError("the mask is empty - the picture may not show the thing - leave it out")
    return mask.detach().cpu()


def _checked(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    values, mask = _checked_map(values), _checked_mask(mask)
    _require_one_shape(values, mask)
    return values, mask


def _require_one_shape(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        shapes = f"{list(first.shape)} and {list(second.shape)}"
        raise UsageError(f"shapes {shapes} differ - resize one of the two to the other")


def _require_variation(values: Tensor) -> None:
    if bool((values == values[0, 0]).all()):
        raise ScratchError("the map is constant - this metric is undefined for it - leave it out")


def _widened(mask: Tensor, tolerance: float) -> Tensor:
    """The places that are at most `tolerance` pixels, from centre to centre, from the mask."""
    if not (math.isfinite(tolerance) and tolerance >= 0.0):
        raise UsageError(f"a tolerance is a number of pixels from 0 on, not {tolerance}")
    radius = math.floor(tolerance)
    offsets = torch.arange(-radius, radius + 1).double()
    disc = (offsets[:, None] ** 2 + offsets**2 <= tolerance**2).float()
    # Counts of pixels: whole numbers, but a convolution may round them.
    return F.conv2d(mask[None, None].float(), disc[None, None], padding=radius)[0, 0] > 0.5


def _iou(chosen: Tensor, mask: Tensor) -> float:
    return float((chosen & mask).sum()) / float((chosen | mask).sum())


def _hits_by_threshold(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, int]:
    """With each value as threshold, from the highest down: how many pixels are at least as high,
    and how many of these lie in the mask; and the mask's size. Equal values give equal counts."""
    inside = values[mask].sort().values
    ordered = values.flatten().sort().values
    chosen = len(ordered) - torch.searchsorted(ordered, ordered.flip(0))
    hits = len(inside) - torch.searchsorted(inside, ordered.flip(0))
    return chosen.double(), hits.double(), len(inside)


def _mean_ranks(values: Tensor) -> Tensor:
    """Ranks from 1 on, flattened; of equal values, the mean of the ranks that they take up."""
    flat = values.flatten()
    ordered = flat.sort().values
    below = torch.searchsorted(ordered, flat)
    not_above = torch.searchsorted(ordered, flat, right=True)
    return (below + 1 + not_above).double() / 2.0


def _area(values: Tensor, score: Callable[[Tensor], float], steps: int) -> float:
    """The area under `score` of the chosen places, over their share, from none to all."""
    if steps < 1:
        raise UsageError(f"the places are cut into 1 part or more, not {steps}")
    ordered = values.flatten().sort(descending=True).values
    n = len(ordered)
    choices = [torch.zeros_like(values, dtype=torch.bool)]
    for step in range(1, steps + 1):
        threshold = ordered[max(1, round(step * n / steps)) - 1]
        chosen = values >= threshold
        if not torch.equal(chosen, choices[-1]):
            choices.append(chosen)
    scores = torch.tensor([float(score(chosen)) for chosen in choices], dtype=torch.float64)
    shares = torch.stack([chosen.double().mean() for chosen in choices])
    return float(torch.trapezoid(_finite(scores, "the scores"), shares))
