"""From maps to numbers: a row for each scene, word and map."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.mapping import metrics
from sd_scratch.mapping.faithfulness.maps import CENTRAL, EXACT, FORWARD, SWAPPED, Measured

Row = dict[str, Any]
"""Column -> value; None for what is undefined."""

CELL = 8  # pixels that one latent cell covers: the tolerance of the milder pointing game
METRICS = (
    "pointing",
    "pointing within a cell",
    "mass",
    "IoU at 0.4",
    "IoU at the mean",
    "best IoU",
    "average precision",
    "own object",
    "mass beside",
    "rank with swapped",
    "rank with derivative",
    "relative error",
)
COLUMNS = ("scene", "seed", "prompt", "objects", "kind", "word", "there", "map", "area", "chance within a cell", *METRICS)  # fmt: skip


def score(measured: Measured) -> list[Row]:
    """All metrics of all maps of one case.

    Metrics against a mask need the word's thing in the picture (`there`), `own object` both objects of
    two. Rank correlations need no mask, and a truth has none with itself.
    """
    rows = []
    for i, maps in enumerate(measured.maps):
        target, errors = measured.case.targets[i], measured.errors[i]
        mask, beside = measured.masks.of(target.slot), measured.masks.beside(target.slot)
        facts = {
            "scene": measured.case.index,
            "seed": measured.case.seed,
            "prompt": measured.case.prompt,
            "objects": len(measured.case.scene.objects),
            "kind": target.slot.kind,
            "word": target.text,
            "there": mask is not None,
        }
        for name, values in maps.items():
            if not values.isfinite().all():
                raise ScratchError(f"the map '{name}' of scene {facts['scene']} is not finite")
            row = facts | {"map": name} | against_mask(values, mask, beside)
            for truth, column in ((SWAPPED, "swapped"), (EXACT, "derivative")):
                rank = rank_correlation(values, maps[truth]) if truth in maps else None
                row[f"rank with {column}"] = None if name == truth else rank
            row["relative error"] = errors.get(name) if name in (FORWARD, CENTRAL) else None
            rows.append(row)
    return rows


def against_mask(values: Tensor, mask: Tensor | None, beside: Tensor | None) -> Row:
    """The metrics of one map against its own thing's mask, and against the other object's."""
    names: dict[str, Callable[[], float]] = {}
    if mask is not None:
        names = {
            "area": lambda: metrics.pointing_chance(mask),
            "chance within a cell": lambda: metrics.pointing_chance(mask, CELL),
            "pointing": lambda: metrics.pointing_game(values, mask),
            "pointing within a cell": lambda: metrics.pointing_game(values, mask, CELL),
            "mass": lambda: metrics.mass_in_mask(values, mask),
            "IoU at 0.4": lambda: metrics.iou_of_maximum(values, mask),
            "IoU at the mean": lambda: metrics.iou_at_mean(values, mask),
            "best IoU": lambda: metrics.best_iou(values, mask),
            "average precision": lambda: metrics.average_precision(values, mask),
        }
    if mask is not None and beside is not None:
        names["own object"] = lambda: own_object(values, mask, beside)
        names["mass beside"] = lambda: metrics.mass_in_mask(values, beside)
    empty = dict.fromkeys(("area", "chance within a cell", *METRICS))
    return empty | {name: _defined(metric) for name, metric in names.items()}


def own_object(values: Tensor, own: Tensor, other: Tensor) -> float:
    """1 where a map's mean value in its word's own object is larger than in the other one, 0 where it is
    smaller, 1/2 where both are equal: what chance gives."""
    here, there = float(values[own].double().mean()), float(values[other].double().mean())
    return 0.5 if math.isclose(here, there, rel_tol=1e-6) else float(here > there)


def rank_correlation(first: Tensor, second: Tensor) -> float | None:
    """Spearman's, or None where one of the maps is constant."""
    return _defined(lambda: metrics.spearman(first, second))


def _defined(metric: Callable[[], float]) -> float | None:
    """The metric, or None where it is undefined for this map, such as the rank of a constant one.
    Misuse is no such case."""
    try:
        return metric()
    except UsageError:
        raise
    except ScratchError:
        return None
