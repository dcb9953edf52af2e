"""Numbers as charts, with Pillow alone: matrices, bars, lines, and points in a plane."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sd_scratch.mapping.drawing import (
    FAINT,
    INK,
    PAPER,
    RULE,
    Colour,
    Face,
    font,
    levels,
    named_ramp,
)

BAR: Colour = (52, 101, 164)
SIZE = 13  # of letters


def heat_matrix(values: Tensor, top: float) -> Image.Image:
    """``[rows, columns]`` as a picture with one pixel a number: white 0, dark blue `top`."""
    share = levels(values, top)[..., None] / 255.0
    colours = np.array(PAPER) * (1 - share) + np.array((8, 29, 88)) * share
    return Image.fromarray(colours.round().astype(np.uint8))


def matrix_chart(
    values: Tensor,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    top: float = 1.0,
    *,
    cell: int = 44,
    numbers: bool = True,
) -> Image.Image:
    """A matrix in a frame, rows named on the left and columns above, with the numbers that are not 0."""
    face, small = font(min(SIZE, cell)), font(11)
    left = name_width(rows, face)
    up = name_width(columns, face)
    width, height = cell * values.shape[1], cell * values.shape[0]
    page = Image.new("RGB", (left + width + 1, up + height + 1), PAPER)
    page.paste(heat_matrix(values, top).resize((width, height), 0), (left, up))
    draw = ImageDraw.Draw(page)
    draw.rectangle((left, up, left + width, up + height), None, RULE)
    for i, label in enumerate(rows):
        draw.text((left - 6, up + cell * i + cell // 2), label, INK, face, anchor="rm")
    for j, label in enumerate(columns):
        _upright(page, label, (left + cell * j + cell // 2, up - 5), cell)
    for i, row in enumerate(values.tolist() if numbers else ()):
        for j, value in enumerate(row):
            if value == 0:
                continue
            ink = PAPER if top > 0 and value > 0.5 * top else INK
            middle = (left + cell * j + cell // 2, up + cell * i + cell // 2)
            draw.text(middle, f"{value:.2f}", ink, small, anchor="mm")
    return page


def name_width(names: Sequence[str], face: Face) -> int:
    """How much room a chart leaves for the names of its rows or columns; none without any."""
    return 10 + int(max(face.getlength(name) for name in names)) if names else 0


def matrix_scale(top: float, units: str = "") -> Image.Image:
    """The colours of `heat_matrix` from 0 to `top`, with their ends named."""
    return named_ramp(heat_matrix(torch.linspace(0, 1, 256)[None], 1.0), top, units)


def bar_chart(
    values: Sequence[float],
    labels: Sequence[str],
    top: float,
    *,
    width: int = 340,
) -> Image.Image:
    """One bar a line, `top` as long as the chart is wide, with its number behind it, all to as many
    places as `top` has with three digits."""
    places = max(0, 2 - math.floor(math.log10(top))) if top > 0 else 2
    face, line = font(SIZE), 22
    left = 10 + int(max((face.getlength(label) for label in labels), default=0))
    room = width - left - 46
    page = Image.new("RGB", (width, line * max(len(values), 1) + 4), PAPER)
    draw = ImageDraw.Draw(page)
    for i, (value, label) in enumerate(zip(values, labels, strict=True)):
        y = line * i + line // 2
        length = room * value / top if top > 0 else 0
        draw.text((left - 6, y), label, INK, face, anchor="rm")
        draw.rectangle((left, y - 7, left + length, y + 7), BAR)
        draw.text((left + length + 5, y), f"{value:.{places}f}", INK, font(11), anchor="lm")
    draw.line((left, 0, left, page.height), RULE)
    return page


def _upright(page: Image.Image, text: str, foot: tuple[int, int], room: int) -> None:
    """Write a text from below to above, ending over `foot`, no thicker than `room`."""
    face, thick = font(min(SIZE, room)), min(18, room)
    strip = Image.new("RGB", (int(face.getlength(text)) + 2, thick), PAPER)
    ImageDraw.Draw(strip).text((0, thick // 2), text, INK, face, anchor="lm")
    turned = strip.rotate(90, expand=True)
    page.paste(turned, (foot[0] - turned.width // 2, foot[1] - turned.height))


def plane_chart(
    places: Sequence[Sequence[float]],
    labels: Sequence[str],
    path: Sequence[Sequence[float]] = (),
    axes: tuple[str, str] = ("", ""),
    side: int = 520,
) -> Image.Image:
    """Points in a plane, numbered from 1 and named by what is short, with the places of a path
    joined by a line and numbered in its colour. Both axes have one scale."""
    points = np.array([*places, *path], dtype=float)
    low, high = points.min(axis=0), points.max(axis=0)
    extent = float(max(*(high - low), 1e-9))
    middle, border = (low + high) / 2, 46

    def spot(place: Sequence[float]) -> tuple[float, float]:
        x, y = (np.asarray(place, dtype=float) - middle) / extent * (side - 2 * border)
        return side / 2 + float(x), side / 2 - float(y)

    page = Image.new("RGB", (side, side + 26), PAPER)
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, side - 1, side - 1), None, RULE)
    half = extent / 2 * side / (side - 2 * border)  # from the middle to the frame
    for value in ticks(middle[0] - half, middle[0] + half):
        x = spot((value, middle[1]))[0]
        if 40 < x < side - 20:
            draw.line((x, side - 5, x, side - 1), FAINT)
            draw.text((x, side - 7), f"{value:g}", FAINT, font(11), anchor="ms")
    for value in ticks(middle[1] - half, middle[1] + half):
        y = spot((middle[0], value))[1]
        if 24 < y < side - 24:
            draw.line((0, y, 4, y), FAINT)
            draw.text((8, y), f"{value:g}", FAINT, font(11), anchor="lm")
    if len(path):
        draw.line([spot(place) for place in path], BAR, 2)
    steps: dict[tuple[float, float], list[int]] = {}  # a place may be passed twice
    for i, place in enumerate(path, start=1):
        x, y = spot(place)
        draw.ellipse(_around((x, y), 3), BAR)
        steps.setdefault((round(x), round(y)), []).append(i)
    for place in places:
        draw.ellipse(_around(spot(place), 6), (200, 40, 40))
    taken = [_around(spot(place), 7) for place in places] + [_around(spot(p), 4) for p in path]
    for i, place in enumerate(places, start=1):
        text = f"{i}: {labels[i - 1]}"
        if font(SIZE).getlength(text) > side / 2:  # would hide the others
            text = f"{i}"
        _write_free(draw, spot(place), text, INK, SIZE, taken, side)
    for at, numbers in steps.items():
        _write_free(draw, at, ",".join(map(str, numbers)), BAR, 11, taken, side)
    draw.text((side / 2, side + 12), f"{axes[0]}  (across)", INK, font(SIZE), anchor="mm")
    draw.text((6, 8), f"{axes[1]}  (up)", INK, font(SIZE))
    return page


Box = tuple[float, float, float, float]


def _around(at: tuple[float, float], room: float) -> Box:
    return at[0] - room, at[1] - room, at[0] + room, at[1] + room


def _write_free(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    ink: Colour,
    size: int,
    taken: list[Box],
    side: int,
) -> None:
    """Write beside a point where the text covers nothing of `taken`, to which it is added: the nearest
    such place of several rings around it, or the one that covers least."""
    width, height = font(size).getlength(text), size + 3
    best: tuple[float, Box] | None = None
    for ring in (10, 22, 34, 48, 64):
        for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (-1, -1), (1, 1), (-1, 1)):
            left = at[0] + x * ring - (0 if x > 0 else width if x < 0 else width / 2)
            top = at[1] + y * ring - (0 if y > 0 else height if y < 0 else height / 2)
            box = (left, top, left + width, top + height)
            outside = left < 2 or top < 20 or box[2] > side - 2 or box[3] > side - 20
            covered = sum(_overlap(box, other) for other in taken) + outside * 1e6
            if best is None or covered < best[0]:
                best = (covered, box)
        if best is not None and best[0] == 0:
            break
    assert best is not None
    box = best[1]
    taken.append(box)
    draw.text(box[:2], text, ink, font(size), stroke_width=2, stroke_fill=PAPER)


def _overlap(first: Box, second: Box) -> float:
    """The area that two boxes share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0.0) * max(height, 0.0)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """About `count` round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Curve:
    """One line of a chart: a value for each of 1, 2, ..., and how far it may be off to both sides."""

    values: Sequence[float]
    spread: Sequence[float]
    colour: Colour

    def edge(self, side: int) -> list[float]:
        """The band's upper end (1) or its lower one (-1)."""
        return [v + side * s for v, s in zip(self.values, self.spread, strict=True)]


def line_chart(curves: Sequence[Curve], across: str, up: str) -> Image.Image:
    """Curves over 1, 2, ..., each with a paler band of its spread; one scale for all."""
    width, height = size = (640, 360)
    left, top, right, bottom = 64, 24, width - 16, height - 44
    low = min((value for curve in curves for value in curve.edge(-1)), default=0.0)
    high = max((value for curve in curves for value in curve.edge(1)), default=1.0)
    low, high = (low, high) if high > low else (low - 1.0, high + 1.0)
    count = max((len(curve.values) for curve in curves), default=1)

    def spot(i: int, value: float) -> tuple[float, float]:
        x = left + (right - left) * (i / max(count - 1, 1))
        return x, bottom - (bottom - top) * (value - low) / (high - low)

    page = Image.new("RGB", size, PAPER)
    for curve in curves:
        over, under = ([spot(i, v) for i, v in enumerate(curve.edge(side))] for side in (1, -1))
        band = Image.new("RGBA", size, (*curve.colour, 0))
        if len(over) > 1:
            ImageDraw.Draw(band).polygon([*over, *reversed(under)], (*curve.colour, 40))
        page.paste(band, (0, 0), band)
    draw = ImageDraw.Draw(page)
    for curve in curves:
        line = [spot(i, value) for i, value in enumerate(curve.values)]
        draw.line(line, curve.colour, 2)
        for at in line[-1:]:
            draw.ellipse(_around(at, 3), curve.colour)
    draw.line((left, top, left, bottom, right, bottom), INK)
    for value in ticks(low, high, 5):
        y = spot(0, value)[1]
        draw.line((left - 4, y, left, y), INK)
        draw.text((left - 8, y), f"{value:g}", INK, font(11), anchor="rm")
    for i in sorted({0, (count - 1) // 2, count - 1}):
        x = spot(i, low)[0]
        draw.line((x, bottom, x, bottom + 4), INK)
        draw.text((x, bottom + 6), f"{i + 1}", INK, font(11), anchor="ma")
    draw.text(((left + right) / 2, height - 4), across, INK, font(SIZE), anchor="mb")
    draw.text((6, 2), up, INK, font(SIZE))
    return page
