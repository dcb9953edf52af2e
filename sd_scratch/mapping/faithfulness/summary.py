"""From rows to a table: means over the scenes with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sd_scratch.mapping.faithfulness.cases import KINDS
from sd_scratch.mapping.faithfulness.scores import METRICS, Row
from sd_scratch.mapping.metrics import bootstrap_interval

FACTS = ("scene", "seed", "word", "there", "map", "prompt", "objects", "kind")
HEADS = {
    "pointing": "points",
    "pointing within a cell": "in a cell",
    "mass": "mass",
    "IoU at 0.4": "IoU .4",
    "best IoU": "best IoU",
    "own object": "own obj.",
    "rank with swapped": "rank G2",
    "rank with derivative": "rank G3",
}
"""The metrics that the printed table shows, and what it calls them."""


@dataclass(frozen=True)
class Figure:
    """The mean of one metric over the scenes in which it is defined, with its 95 % interval, which is
    None for a single scene."""

    kind: str
    map: str
    metric: str
    scenes: int
    mean: float
    low: float | None
    high: float | None


def summarise(rows: Sequence[Row]) -> list[Figure]:
    """A figure for each kind of word, map and metric. Words of one scene are not independent: where it
    has two of a kind, their mean counts."""
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    metrics = ("area", "chance within a cell", *METRICS)
    return [
        figure
        for kind in kinds
        for figure in _figures([row for row in rows if row["kind"] == kind], kind, metrics)
    ]


def summarise_checks(rows: Sequence[Row]) -> list[Figure]:
    """The same of the checks, which are about nouns."""
    metrics = dict.fromkeys(name for row in rows for name in row if name not in FACTS)
    return _figures(rows, KINDS[0], list(metrics))


def differences_against_exact(rows: Sequence[Row], within: float = 1e-2) -> list[str]:
    """A line for each finite difference: how far it is from the exact derivative, over all words. The
    median, since a few pictures that are about to become another one have errors of any size."""
    lines = []
    for name in dict.fromkeys(row["map"] for row in rows if row["relative error"] is not None):
        errors = [row["relative error"] for row in rows if row["map"] == name]
        values = torch.tensor([error for error in errors if error is not None])
        low, middle, high = values.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
        share = float((values <= within).float().mean())
        lines.append(
            f"{name}: relative error {middle:.2g} in the median of {len(values)} words, {low:.2g} to "
            f"{high:.2g} for nine in ten, at most {within:g} for {share:.0%}"
        )
    return lines


def _figures(rows: Sequence[Row], kind: str, metrics: Sequence[str]) -> list[Figure]:
    figures = []
    for name in dict.fromkeys(row["map"] for row in rows):
        of_map = [row for row in rows if row["map"] == name]
        for metric in metrics:
            by_scene: dict[int, list[float]] = {}
            for row in of_map:
                if row.get(metric) is not None:
                    by_scene.setdefault(row["scene"], []).append(float(row[metric]))
            if by_scene:
                values = [sum(several) / len(several) for several in by_scene.values()]
                figures.append(_figure(kind, name, metric, values))
    return figures


def _figure(kind: str, name: str, metric: str, values: Sequence[float]) -> Figure:
    if len(values) < 2:
        return Figure(kind, name, metric, 1, values[0], None, None)
    interval = bootstrap_interval(torch.tensor(values, dtype=torch.float64))
    return Figure(kind, name, metric, len(values), interval.mean, interval.low, interval.high)


def table(figures: Sequence[Figure], kind: str, heads: dict[str, str] | None = None) -> str:
    """The figures of one kind of word as a Markdown table: a line a map, means with half the width of
    their intervals."""
    heads = heads or HEADS
    chosen = {(f.map, f.metric): f for f in figures if f.kind == kind}
    maps = list(dict.fromkeys(name for name, _ in chosen))
    lines = ["| map | " + " | ".join(heads.values()) + " |", "|---" * (1 + len(heads)) + "|"]
    for name in maps:
        shown = [_shown(chosen.get((name, metric))) for metric in heads]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _shown(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    if figure.low is None or figure.high is None:
        return f"{figure.mean:.2f}"
    return f"{figure.mean:.2f} ± {(figure.high - figure.low) / 2:.2f}"
