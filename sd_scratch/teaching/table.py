"""What an exercise shows: a table in words, and a figure."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Table:
    """Named columns, rows of values, what is to be seen in them, and a figure.

    Attributes:
        columns, rows: every row has as many values as there are columns.
        findings: sentences, each computed from the rows.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    findings: tuple[str, ...]
    figure: Image.Image

    def __str__(self) -> str:
        cells = [[_written(value) for value in row] for row in (self.columns, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [_line(row, widths) for row in cells]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", *self.findings])

    def column(self, name: str) -> list[object]:
        return [row[self.columns.index(name)] for row in self.rows]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return "  ".join([row[0].ljust(len(first)), *others])


def _written(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
