"""What a benchmark found, and how it is printed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from sd_scratch.cli.score import table


@dataclass(frozen=True)
class Row:
    """One quantity, medians of all runs; `ratio` is ours by theirs."""

    what: str
    unit: str
    ours: float
    theirs: float | None = None
    ratio: float | None = None
    note: str = ""


def row(
    what: str, unit: str, ours: Sequence[float], theirs: Sequence[float], note: str = ""
) -> Row:
    """The medians of two series; `theirs` may be empty."""
    mine = median(ours)
    if not theirs:
        return Row(what, unit, mine, note=note)
    other = median(theirs)
    return Row(what, unit, mine, other, mine / other, note)


def as_text(settings: Mapping[str, object], rows: Sequence[Row]) -> str:
    """The settings, and a table in Markdown."""
    cells = []
    for row in rows:
        theirs = "" if row.theirs is None else f"{row.theirs:.4g} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        cells.append((row.what, f"{row.ours:.4g} {row.unit}", theirs, ratio, row.note))
    head = ", ".join(f"{key} {value}" for key, value in settings.items())
    return f"{head}\n\n{table(('', 'ours', 'diffusers', 'ratio', ''), cells)}"
