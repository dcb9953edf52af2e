"""Curves over a numbered axis, each with its name at its end."""

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from sd_scratch.mapping.charts import SIZE, ticks
from sd_scratch.mapping.drawing import FAINT, INK, PAPER, RULE, font, hues

LEFT, TOP, BOTTOM = 64, 36, 44


def curves(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    across: str,
    up: str,
    *,
    log_x: bool = False,
    size: tuple[int, int] = (720, 380),
) -> Image.Image:
    """Each line's values over `x`; `log_x` spaces x by its logarithm. What is not finite is left out."""
    face = font(SIZE)
    right = size[0] - 16 - int(max(face.getlength(name) for name in lines))
    bottom = size[1] - BOTTOM
    places = [math.log10(value) if log_x else value for value in x]
    finite = [v for values in lines.values() for v in values if math.isfinite(v)]
    low, high = min(finite), max(finite)
    low, high = (low, high) if high > low else (low - 1.0, high + 1.0)

    def spot(place: float, value: float) -> tuple[float, float]:
        share = (place - places[0]) / ((places[-1] - places[0]) or 1.0)
        return LEFT + (right - LEFT) * share, bottom - (bottom - TOP) * (value - low) / (high - low)

    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    for tick in ticks(low, high):
        y = spot(places[0], tick)[1]
        draw.line([(LEFT, y), (right, y)], RULE)
        draw.text((LEFT - 6, y), f"{tick:g}", FAINT, face, anchor="rm")
    for value, place in zip(x, places, strict=True):
        if log_x or value in (x[0], x[len(x) // 2], x[-1]):
            draw.text((spot(place, low)[0], bottom + 6), f"{value:g}", FAINT, face, anchor="mt")
    ends: list[float] = []
    for colour, (name, values) in zip(hues(len(lines)), lines.items(), strict=True):
        points = [spot(p, v) for p, v in zip(places, values, strict=True) if math.isfinite(v)]
        draw.line(points, colour, 2)
        end = points[-1][1]
        while any(abs(end - other) < SIZE + 1 for other in ends):  # names must not cover each other
            end -= SIZE + 1
        ends.append(end)
        draw.text((right + 6, end), name, colour, face, anchor="lm")
    draw.text(((LEFT + right) / 2, size[1] - 6), across, INK, face, anchor="mb")
    draw.text((6, TOP - 20), up, INK, face, anchor="lm")
    return page
