"""A map for each word as figures: all on one scale, and each as the source prints it."""

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from sd_scratch.mapping.drawing import (
    Cell,
    dark,
    grey_map,
    hues,
    overlay_all,
    overlay_strongest,
    picture,
    scale_bar,
    sheet,
)
from sd_scratch.mapping.maps import Map, largest, stretched
from sd_scratch.mapping.report import Report, Table, numbered


def maps_report(
    name: str, title: str, pixels: Tensor, maps: Sequence[Map], notes: Sequence[str]
) -> Report:
    """The figure `name` of a map for each word over the picture ``[3, H, W]`` uint8, the overlays alone
    (``strongest``, ``together``), the maps as the source prints them (``printed``), and the raw maps."""
    below, top, colours = picture(pixels), largest(maps), hues(len(maps))
    ranges = [f"up to {float(map_.tensor.max()):.3g}" for map_ in maps]
    strongest = overlay_strongest(below, maps, top, colours)
    together = overlay_all(below, maps, top, colours)
    figure = _figure(title, below, (strongest, together), maps, top, ranges, notes)
    keys = numbered([map_.word for map_ in maps])
    rows = [
        (key, m.word, m.method, m.units, float(m.tensor.mean()), float(m.tensor.max()))
        for key, m in zip(keys, maps, strict=True)
    ]
    return Report(
        {
            name: figure,
            "strongest": strongest,
            "together": together,
            "printed": _printed(title, below, maps, notes[0]),
        },
        tensors={"maps": {key: m.tensor for key, m in zip(keys, maps, strict=True)}},
        tables={"maps": Table(("tensor", "word", "method", "units", "mean", "largest"), rows)},
        facts={"words": [map_.word for map_ in maps]},
    )


def _figure(
    title: str,
    below: Image.Image,
    overlays: tuple[Image.Image, Image.Image],
    maps: Sequence[Map],
    top: float,
    ranges: Sequence[str],
    notes: Sequence[str],
) -> Image.Image:
    cells = [
        Cell(below, "the picture"),
        Cell(overlays[0], "the strongest word at each place"),
        Cell(overlays[1], "all words, one over the other"),
    ]
    words = [
        Cell(grey_map(map_, top), f"{map_.word}, {range_}", colour)
        for map_, range_, colour in zip(maps, ranges, hues(len(maps)), strict=True)
    ]
    columns = max(3, min(5, len(words)))
    rows = [cells, *(words[i : i + columns] for i in range(0, len(words), columns))]
    foot = scale_bar(top, maps[0].units)
    return sheet(title, rows, notes=[*notes, *dark(maps, top)], foot=foot)


def _printed(title: str, below: Image.Image, maps: Sequence[Map], prompt: str) -> Image.Image:
    """Every word's map in 0..255: grey levels as they are, all else stretched by itself from its
    smallest to its largest value; that number is also how opaque the word's colour is."""
    own = [stretched(map_) for map_ in maps]
    colours = hues(len(own))
    overlays = (overlay_strongest(below, own, 255, colours), overlay_all(below, own, 255, colours))
    raw = own[0] is maps[0]
    ranges = [
        f"{'up to' if raw else f'{float(m.tensor.min()):.2g} to'} {float(m.tensor.max()):.3g}"
        for m in maps
    ]
    how = (
        "As the source prints it: grey levels as Pillow's difference gives them, without a scale of ours, "
        "and a colour as opaque as its word's grey. Faint words stay faint."
        if raw
        else "As the source prints it: every word's map stretched by itself, its smallest value to 0 and "
        "its largest to 255, so that brightness cannot be compared between words."
    )
    return _figure(f"{title}, as printed", below, overlays, own, 255, ranges, [prompt, how])
