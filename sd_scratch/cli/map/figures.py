"""Figures that several experiments save."""

from collections.abc import Sequence

from PIL import Image

from sd_scratch.cli.map.results import Results
from sd_scratch.mapping.drawing import (
    Cell,
    grey_map,
    hues,
    overlay_all,
    overlay_strongest,
    scale_bar,
    sheet,
)
from sd_scratch.mapping.maps import Map, largest, told_apart


def save_maps(
    results: Results,
    title: str,
    below: Image.Image,
    maps: Sequence[Map],
    notes: Sequence[str],
) -> None:
    """The figure of a map for each word, the overlays alone, and the raw maps."""
    top, colours = largest(maps), hues(len(maps))
    names = told_apart([map_.word for map_ in maps])
    strongest = overlay_strongest(below, maps, top, colours)
    together = overlay_all(below, maps, top, colours)
    cells = [
        Cell(below, "the picture"),
        Cell(strongest, "the strongest word at each place"),
        Cell(together, "all words, one over the other"),
    ]
    words = [
        Cell(grey_map(map_, top), f"{name}, up to {float(map_.tensor.max()):.3g}", colour)
        for map_, name, colour in zip(maps, names, colours, strict=True)
    ]
    columns = max(3, min(5, len(words)))
    rows = [cells, *(words[i : i + columns] for i in range(0, len(words), columns))]
    units = maps[0].units
    figure = sheet(title, rows, notes=notes, foot=scale_bar(top, units))
    results.picture(f"{results.experiment}.png", figure)
    results.picture("strongest.png", strongest)
    results.picture("together.png", together)
    results.maps(maps)
