"""The examination as tables, as text and as a figure of some scenes."""

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from sd_scratch.mapping.drawing import Cell, grey_map, picture, sheet
from sd_scratch.mapping.faithfulness.cases import KINDS, Case
from sd_scratch.mapping.faithfulness.run import Part
from sd_scratch.mapping.faithfulness.scores import COLUMNS, Row
from sd_scratch.mapping.faithfulness.summary import (
    Figure,
    differences_against_exact,
    summarise,
    summarise_checks,
    table,
)
from sd_scratch.mapping.maps import Map
from sd_scratch.mapping.report import Report, Table
from sd_scratch.pictures.pixels import to_bytes

SHOWN = (
    "attention",
    "attention 8x8",
    "perturbation",
    "central difference",
    "exact derivative",
    "word swapped",
)


def faithfulness_report(parts: Sequence[Part], cases: Sequence[Case], checks: int) -> Report:
    """What `examine` found of the cases."""
    wanted = {case.index for case in cases}
    rows = [row for part in parts for row in part.rows if row["scene"] in wanted]
    checked = [row for part in parts for row in part.checks if row["scene"] in wanted]
    figures, of_checks = summarise(rows), summarise_checks(checked)
    tables = {"scenes": Table(COLUMNS, [[row[name] for name in COLUMNS] for row in rows])}
    if checked:
        columns = list(dict.fromkeys(name for row in checked for name in row))
        tables["checks"] = Table(columns, [[row.get(name) for name in columns] for row in checked])
    header = ("kind", "map", "metric", "scenes", "mean", "low", "high")
    summary = [[getattr(f, name) for name in header] for f in (*figures, *of_checks)]
    tables["summary"] = Table(header, summary)
    known = {"prompt": "one for each scene, in scenes.csv", "scenes": len(cases), "checks": checks}
    return Report(
        {"examples": examples(parts[0].examples, cases)},
        tables=tables,
        tensors={"examples": parts[0].examples},
        facts=known,
        text=as_text(rows, figures, checked, of_checks),
    )


def as_text(
    rows: Sequence[Row], figures: Sequence[Figure], checked: Sequence[Row], of_checks: list[Figure]
) -> str:
    """The tables for people, as Markdown."""
    parts = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        words = [row["there"] for row in rows if row["kind"] == kind and row["map"] == "uniform"]
        means = {f.metric: f.mean for f in figures if f.kind == kind and f.map == "uniform"}
        chance = ""
        if means.get("area"):
            margin = f"{means['chance within a cell']:.1%} with a cell's margin"
            chance = f" and cover {means['area']:.1%} of it, {margin}: that is chance"
        there = f"{sum(words)} are in the picture{chance}"
        parts.append(f"\n{kind}: {len(words)} words, {there}\n\n{table(figures, kind)}")
    if checked:
        metrics = dict.fromkeys(f.metric for f in of_checks)
        scenes = len({row["scene"] for row in checked})
        parts.append(f"\nchecks, on the nouns of {scenes} scenes\n")
        parts.append(table(of_checks, KINDS[0], {name: name for name in metrics}))
    parts.append("\nagainst the exact derivative\n")
    return "\n".join([*parts, *differences_against_exact(rows)]) + "\n"


def examples(raw: dict[str, Tensor], cases: Sequence[Case]) -> Image.Image:
    """A row a scene: the picture, the mask of the noun's object, and the noun's maps."""
    rows, notes, labels = [], [], []
    for case in cases:
        colours = raw.get(f"{case.index}.picture")
        if colours is None:
            continue
        target, size = case.targets[0], (colours.shape[-1], colours.shape[-2])

        def grey(values: Tensor, top: float, caption: str, size: tuple[int, int] = size) -> Cell:
            return Cell(grey_map(Map(values.float(), size, "", "", ""), top), caption)

        cells = [Cell(picture(to_bytes(colours)), "the picture")]
        mask = raw.get(f"{case.index}.mask")
        cells += [] if mask is None else [grey(mask, 1.0, "its mask")]
        for name in SHOWN:
            values = raw.get(f"{case.index}.{target.text}-{target.nth}.{name}")
            if values is not None:
                top = float(values.max())
                cells.append(grey(values, top, f"{name}, to {top:.2g}"))
        rows.append(cells)
        notes.append(f"{target.text}: {case.prompt}")
        labels.append(target.text)
    notes.append(
        "Every map from black, 0, to white, its own largest value, which is written under it. "
        "Attention in shares, perturbation in grey levels, differences and derivatives in colours "
        "per length of the word's vectors, the swapped word in colours."
    )
    return sheet("A noun, where it is, and its maps", rows, notes=notes, row_labels=labels)
