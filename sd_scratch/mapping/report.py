"""`Report`: what an experiment found, as figures, tables, raw tensors and facts."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save
from torch import Tensor

from sd_scratch.files import write_file
from sd_scratch.pictures.png import encode_png


@dataclass(frozen=True)
class Table:
    """Rows under a header; None is a value that is undefined."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]

    def to_csv(self) -> bytes:
        """Texts that a spreadsheet would take for a formula get a space in front."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([_tame(value) for value in row] for row in self.rows)
        return text.getvalue().encode()


@dataclass(frozen=True, eq=False)
class Report:
    """All that an experiment found, ready to be looked at or written.

    Attributes:
        figures: pictures for people, by name without ending.
        films: GIF files, by name without ending.
        tables: numbers, by name without ending.
        tensors: raw values, never scaled for show: by file, then by key.
        facts: what the experiment was given and is not in the recipe of its pictures.
        text: what is printed, as Markdown.
    """

    figures: dict[str, Image.Image] = field(default_factory=dict)
    films: dict[str, bytes] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    tensors: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    text: str = ""

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Every file's name and bytes."""
        for name, figure in self.figures.items():
            yield f"{name}.png", encode_png(figure)
        for name, film in self.films.items():
            yield f"{name}.gif", film
        for name, table in self.tables.items():
            yield f"{name}.csv", table.to_csv()
        for name, tensors in self.tensors.items():
            whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            yield f"{name}.safetensors", save(whole)

    def save(self, folder: str | Path) -> list[Path]:
        """Write all files into a folder, replacing what is there; returns their paths."""
        paths = []
        for name, data in self.files():
            paths.append(Path(folder) / name)
            write_file(paths[-1], data, overwrite=True)
        return paths


def numbered(words: Sequence[str]) -> list[str]:
    """Keys for words that may repeat: ``1-red``, ``2-circle``; the number in ``red:2`` goes."""
    texts = [word.rpartition(":")[0] if ":" in word else word for word in words]
    return [
        f"{i}-{text or word}" for i, (text, word) in enumerate(zip(texts, words, strict=True), 1)
    ]


def _tame(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return (
        f" {value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
    )
