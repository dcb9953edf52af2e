"""Figures from pictures and numbers, with Pillow alone: maps, overlays, and sheets that say what they
show. One figure has one scale, which it names."""

import colorsys
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from sd_scratch.mapping.maps import Map

Colour = tuple[int, int, int]
Face = ImageFont.FreeTypeFont | ImageFont.ImageFont

PAPER: Colour = (255, 255, 255)
INK: Colour = (20, 20, 20)
FAINT: Colour = (130, 130, 130)
RULE: Colour = (215, 215, 215)

CELL = 192  # pixels that the shorter side of a picture gets in a sheet
SMALL = 128  # where a sheet holds many
GAP = 12
MARGIN = 20
VISIBLE = 0.1  # of the scale: maps that stay below look black
BACKDROP = 0.35  # brightness of the picture under coloured maps


def hues(count: int) -> list[Colour]:
    """One colour a word, evenly spread over the circle of hues, all of full saturation."""
    circle = [colorsys.hsv_to_rgb(i / max(count, 1), 1.0, 1.0) for i in range(count)]
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in circle]


def picture(pixels: Tensor) -> Image.Image:
    """``[3, H, W]`` uint8 to an RGB picture."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def enlarged(image: Image.Image, side: int) -> Image.Image:
    """A small picture with every pixel drawn several times as large, its shorter side up to `side`."""
    factor = max(1, side // min(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def levels(values: Tensor, top: float) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Numbers to 0..255, where `top` and all above become 255, and 0 and all below 0."""
    scaled = (values.float() / top if top > 0 else torch.zeros_like(values)).clamp(0, 1)
    array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    array = (scaled * 255).round().to(torch.uint8).cpu().numpy()
    return array


def dark(maps: Sequence[Map], top: float) -> list[str]:
    """A line for maps that look black on a scale up to `top`, which says why; none without any."""
    if top == 0:
        return [
            "All maps are black because all their values are 0: nothing changed, or nothing was there."
        ]
    faint = [m for m in maps if float(m.tensor.max()) < VISIBLE * top]
    if not faint:
        return []
    named = ", ".join(f"{m.word} (up to {float(m.tensor.max()):.2g})" for m in faint)
    return [
        f"Black, or nearly so, because their largest values are less than {VISIBLE:.0%} of the scale's "
        f"{top:.3g}: {named}."
    ]


def grey_map(map_: Map, top: float) -> Image.Image:
    """A map in grey, `top` white, at the picture's size."""
    return _to_size(Image.fromarray(levels(map_.tensor, top)), map_.size).convert("RGB")


def signed_map(values: Tensor, top: float, size: tuple[int, int]) -> Image.Image:
    """``[h, w]`` with both signs: blue at -`top`, white at 0, red at `top`, every number a plain cell."""
    share = (values.float() / top if top > 0 else torch.zeros_like(values)).clamp(-1, 1)
    fade = 1 - share.abs()[..., None]
    ends = torch.where(
        share[..., None] > 0, torch.tensor([178, 24, 43]), torch.tensor([33, 102, 172])
    )
    colours = 255 * fade + ends * (1 - fade)
    image = Image.fromarray(colours.round().to(torch.uint8).numpy())
    return image.resize(size, Image.Resampling.NEAREST)


def layer(map_: Map, top: float, colour: Colour) -> Image.Image:
    """A map as a layer of one colour, the more opaque the larger the value."""
    alpha = _to_size(Image.fromarray(levels(map_.tensor, top)), map_.size)
    flat = Image.new("RGB", map_.size, colour)
    flat.putalpha(alpha)
    return flat


def overlay_all(
    below: Image.Image, maps: Sequence[Map], top: float, colours: Sequence[Colour]
) -> Image.Image:
    """All words' layers over the darkened picture, one on top of the other."""
    base = backdrop(below)
    for map_, colour in zip(maps, colours, strict=True):
        base.alpha_composite(layer(map_, top, colour))
    return base.convert("RGB")


def overlay_strongest(
    below: Image.Image, maps: Sequence[Map], top: float, colours: Sequence[Colour]
) -> Image.Image:
    """Every pixel shows the word alone whose map is largest there, over the darkened picture."""
    alphas = np.stack([np.asarray(layer(m, top, PAPER))[..., 3] for m in maps])  # [words, H, W]
    winner = alphas.argmax(axis=0)
    colour = np.array(colours, dtype=np.uint8)[winner]
    top_layer = Image.fromarray(np.dstack([colour, alphas.max(axis=0)]))
    base = backdrop(below)
    base.alpha_composite(top_layer)
    return base.convert("RGB")


def backdrop(below: Image.Image) -> Image.Image:
    """The picture in dark grey, so that colours on it are maps' and not its own."""
    dark = ImageOps.grayscale(below).point(lambda value: value * BACKDROP)
    return dark.convert("RGBA")


def _to_size(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


# Sheets -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A picture in a sheet, and a line under it. `swatch` is a colour that the line explains."""

    image: Image.Image
    caption: str = ""
    swatch: Colour | None = None
    enlarge: bool = True  # a chart has its size already
    indent: int = 0  # where the line starts, for a chart with names on its left


def sheet(
    title: str,
    rows: Sequence[Sequence[Cell | None]],
    *,
    notes: Sequence[str] = (),
    row_labels: Sequence[str] = (),
    foot: Image.Image | None = None,
    side: int = CELL,
) -> Image.Image:
    """A figure: a title, cells in rows, each with its caption, then a strip such as a scale, and notes
    that say what is seen. Pictures get about `side` pixels along the shorter side."""
    shown = [[None if cell is None else _shown(cell, side) for cell in row] for row in rows]
    columns = max(len(row) for row in shown)
    widths = [
        max((cell.width for row in shown for cell in row[i : i + 1] if cell is not None), default=0)
        for i in range(columns)
    ]
    label_width = max((int(font(14).getlength(label)) for label in row_labels), default=0)
    left = MARGIN + (label_width + GAP if label_width else 0)
    body = sum(widths) + GAP * (columns - 1)
    width = max(left + max(body, foot.width if foot else 0) + MARGIN, 560)
    head = wrap(title, font(18), width - 2 * MARGIN)
    tail = [line for note in notes for line in wrap(note, font(13), width - 2 * MARGIN)]
    heights = [max(cell.height for cell in row if cell is not None) for row in shown]
    foot_height = foot.height + GAP if foot else 0
    height = 2 * MARGIN + GAP + 26 * len(head) + sum(heights) + GAP * len(rows) + 18 * len(tail)
    page = Image.new("RGB", (width, height + foot_height + GAP), PAPER)
    draw = ImageDraw.Draw(page)
    y = MARGIN
    for line in head:
        draw.text((MARGIN, y), line, INK, font(18))
        y += 26
    y += GAP
    for i, row in enumerate(shown):
        if row_labels:
            draw.text((MARGIN, y + heights[i] // 2 - 18), row_labels[i], INK, font(14))
        x = left
        for cell, column in zip(row, widths, strict=False):
            if cell is not None:
                page.paste(cell, (x, y))
            x += column + GAP
        y += heights[i] + GAP
    if foot:
        page.paste(foot, (left, y))
        y += foot_height
    for line in tail:
        draw.text((MARGIN, y), line, FAINT, font(13))
        y += 18
    return page


def _shown(cell: Cell, side: int) -> Image.Image:
    """A cell with its caption: small pictures are enlarged without smoothing, large ones shrunk."""
    image = cell.image.convert("RGB")
    if cell.enlarge:
        factor = side / min(image.size)
        factor = max(1, round(factor)) if factor >= 1 else factor
        size = (round(image.width * factor), round(image.height * factor))
        smooth = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST
        image = image.resize(size, smooth)
    if not cell.caption:
        return image
    indent = 18 if cell.swatch else cell.indent
    lines = wrap(cell.caption, font(14), image.width - indent)
    page = Image.new("RGB", (image.width, image.height + 4 + 18 * len(lines)), PAPER)
    page.paste(image, (0, 0))
    draw = ImageDraw.Draw(page)
    if cell.swatch:
        top = image.height + 6
        draw.rectangle((0, top, 12, top + 12), cell.swatch, RULE)
    for i, line in enumerate(lines):
        draw.text((indent, image.height + 3 + 18 * i), line, INK, font(14))
    return page


def scale_bar(top: float, units: str) -> Image.Image:
    """From black (0) to white (`top`), with its ends named."""
    ramp = np.linspace(0, 255, 256).round().astype(np.uint8)[None]
    return named_ramp(Image.fromarray(ramp).convert("RGB"), top, units)


def named_ramp(ramp: Image.Image, top: float, units: str, low: float = 0.0) -> Image.Image:
    """A strip of colours with `low` under its one end, `top` under the other, and the units behind it."""
    width, face = ramp.width, font(13)
    behind = 10 + int(face.getlength(units)) if units else 0
    page = Image.new("RGB", (width + behind, 34), PAPER)
    page.paste(ramp.resize((width, 14)), (0, 0))
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, width - 1, 13), None, RULE)
    draw.text((0, 16), f"{low:.3g}", INK, face)
    draw.text((width, 16), f"{top:.3g}", INK, face, anchor="ra")
    draw.text((width + 10, 7), units, INK, face, anchor="lm")
    return page


def wrap(text: str, face: Face, width: int) -> list[str]:
    """A text in lines of at most `width` pixels, broken between words, or within one that is longer."""
    lines = [""]
    for word in text.split():
        trial = f"{lines[-1]} {word}".strip()
        if face.getlength(trial) <= width:
            lines[-1] = trial
            continue
        if lines[-1]:
            lines.append("")
        for char in word:
            if lines[-1] and face.getlength(lines[-1] + char) > width:
                lines.append("")
            lines[-1] += char
    return lines


@functools.lru_cache(maxsize=8)
def font(size: int) -> Face:
    """The letters that come with Pillow."""
    return ImageFont.load_default(size)
