"""Reads a picture of one object back, by rule: background, colour, shape, size and place.

Nothing here is learnt. The background is the commonest palette colour along the picture's edge, the
object's colour the commonest other one. Every pixel's place between the two colours is then how much
of it the object covers, and the shape is the one whose rendering, moved and scaled to that mask,
overlaps it best. How often the oracle is right on true renderings bounds whatever it says of others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.training.scenes.graph import COLOURS, SHAPES, SIZES, Scene, place_of
from sd_scratch.training.scenes.render import coverage

MIN_AREA = 0.006  # share of the picture; less is no object
MIN_OVERLAP = 0.75  # soft intersection over union below which a blob is no shape
ANGLES = (-10.0, -5.0, 0.0, 5.0, 10.0)
EDGE = 3  # pixels of 64 along the border that show the background
CHANCE = {
    "background": 1 / len(COLOURS),
    "colour": 1 / len(COLOURS),
    "shape": 1 / len(SHAPES),
    "size": 1 / len(SIZES),
    "place": 1 / 9,
    "shape and colour": 1 / (len(SHAPES) * len(COLOURS)),
}
"""How often each attribute is right by guessing. For colour this is a bound from above: an object
never has its background's colour."""


@dataclass(frozen=True)
class Reading:
    """What the oracle sees; None where it sees no object, or an object of no known shape."""

    background: str
    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    place: str | None = None
    overlap: float = 0.0


def read(images: Tensor) -> list[Reading]:
    """``[B, 3, S, S]`` in -1..1 -> one `Reading` each."""
    rgb = (images.detach().float().cpu().clamp(-1, 1) + 1) / 2
    return [_read_one(image) for image in rgb]


def score(readings: Sequence[Reading], scenes: Sequence[Scene]) -> dict[str, float]:
    """The share of pictures in which each attribute of the first object is read as it should be."""
    rows = [agreement(r, s) for r, s in zip(readings, scenes, strict=True)]
    return {name: sum(row[name] for row in rows) / len(rows) for name in CHANCE}


def agreement(reading: Reading, scene: Scene) -> dict[str, bool]:
    """Attribute -> whether the reading has it right, with shape and colour together as one more."""
    item = scene.objects[0]
    right = {
        "background": reading.background == scene.background,
        "colour": reading.colour == item.colour,
        "shape": reading.shape == item.shape,
        "size": reading.size == item.size,
        "place": reading.place == item.place,
    }
    return right | {"shape and colour": right["shape"] and right["colour"]}


def _read_one(rgb: Tensor) -> Reading:
    names = list(COLOURS)
    palette = torch.tensor(list(COLOURS.values()))
    labels = torch.cdist(rgb.flatten(1).T, palette).argmin(dim=1).view(rgb.shape[1:])  # [S, S]
    edge = _edge(labels)
    ground = int(labels[edge].mode().values)
    colour = _object_colour(labels, ground)
    if colour is None:
        return Reading(names[ground])

    mask = _soft_mask(rgb, labels, ground, colour, edge)
    if float(mask.mean()) < MIN_AREA:
        return Reading(names[ground])
    shape, radius, x, y, overlap = _fit(mask)
    if overlap < MIN_OVERLAP:
        return Reading(names[ground], names[colour], overlap=overlap)
    size = min(SIZES, key=lambda name: abs(SIZES[name] - radius))
    return Reading(names[ground], names[colour], shape, size, place_of(x, y), overlap)


def _edge(labels: Tensor) -> Tensor:
    """Which pixels lie along the border."""
    side = labels.shape[-1]
    width = max(1, EDGE * side // 64)
    edge = torch.ones_like(labels, dtype=torch.bool)
    edge[width:-width, width:-width] = False
    return edge


def _object_colour(labels: Tensor, ground: int) -> int | None:
    """The commonest colour that is not the background's, among pixels whose neighbours all agree:
    the blend of two colours along an outline is often nearest to a third."""
    best, best_count = None, MIN_AREA * labels.numel() / 3
    for colour in range(len(COLOURS)):
        if colour != ground:
            inside = F.avg_pool2d((labels == colour).float()[None, None], 3, stride=1) > 0.99
            if (count := float(inside.sum())) > best_count:
                best, best_count = colour, count
    return best


def _soft_mask(rgb: Tensor, labels: Tensor, ground: int, colour: int, edge: Tensor) -> Tensor:
    """How far each pixel lies from the background's colour to the object's, 0..1: ``[S, S]``.

    Both colours are the medians of what was found, not the palette's. The first and the last quarter
    of the way count as 0 and 1: the sum of much faint noise would pass for an area.
    """
    a = rgb[:, edge & (labels == ground)].median(dim=1).values
    b = rgb[:, labels == colour].median(dim=1).values
    way = b - a
    along = torch.einsum("chw,c->hw", rgb - a[:, None, None], way) / way.square().sum()
    return (2 * along - 0.5).clamp(0, 1)


def _fit(mask: Tensor) -> tuple[str, float, float, float, float]:
    """The shape, radius, x, y and overlap of the rendering that fits the mask best."""
    side = mask.shape[-1]
    points = (torch.arange(side) + 0.5) / side
    area = mask.mean()
    x = (mask.mean(dim=0) * points).mean() / area
    y = (mask.mean(dim=1) * points).mean() / area
    angles = torch.tensor(ANGLES)
    best = ("", 0.0, 0.0, 0.0, -1.0)
    for shape in SHAPES:
        unit_area, offset_x, offset_y = _MOMENTS[shape]
        radius = torch.sqrt(area / unit_area).expand_as(angles)
        cos, sin = torch.cos(torch.deg2rad(angles)), torch.sin(torch.deg2rad(angles))
        cx = x - radius * (cos * offset_x - sin * offset_y)
        cy = y - radius * (sin * offset_x + cos * offset_y)
        drawn = coverage(shape, cx, cy, radius, angles, side)
        overlap = torch.minimum(drawn, mask).sum((1, 2)) / torch.maximum(drawn, mask).sum((1, 2))
        i = int(overlap.argmax())
        if float(overlap[i]) > best[4]:
            best = (shape, float(radius[i]), float(cx[i]), float(cy[i]), float(overlap[i]))
    return best


def _moments(shape: str) -> tuple[float, float, float]:
    """Area and centre of gravity of a shape of radius 1."""
    side, radius = 256, 0.4
    one = torch.ones(1)
    drawn = coverage(shape, 0.5 * one, 0.5 * one, radius * one, 0 * one, side)[0]
    points = ((torch.arange(side) + 0.5) / side - 0.5) / radius
    total = drawn.sum()
    x = float((drawn.sum(dim=0) * points).sum() / total)
    y = float((drawn.sum(dim=1) * points).sum() / total)
    return float(drawn.mean()) / radius**2, x, y


_MOMENTS = {shape: _moments(shape) for shape in SHAPES}
