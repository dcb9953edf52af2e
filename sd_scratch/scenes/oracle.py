"""Reads a picture back, by rule: the background, and each object's colour, shape, size and place.

Nothing here is learnt. The background is the commonest palette colour along the picture's edge. Of
every other colour the connected parts that are more than an outline are objects. Each pixel's place
between the two colours is how much of it the object covers, and the shape is the one whose rendering,
moved and scaled to that mask, overlaps it best. How often the oracle is right on true renderings
bounds whatever it says of others.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.scenes.graph import COLOURS, SHAPES, SIZES, Scene, place_of, relation_of
from sd_scratch.scenes.render import coverage

MIN_AREA = 0.006  # share of the picture; less is no object
MIN_OVERLAP = 0.75  # soft intersection over union below which a blob is no shape
ANGLES = (-10.0, -5.0, 0.0, 5.0, 10.0)
EDGE = 3  # pixels of 64 along the border that show the background
RIM = 2  # pixels of 64 around a part's own colour in which its outline fades


@dataclass(frozen=True)
class ReadObject:
    """One object: `x` and `y` are its centre in shares of the picture, `mask` ``[S, S]`` in 0..1 how
    much of every pixel it covers. Shape and size are None for a blob of no known shape."""

    colour: str
    shape: str | None
    size: str | None
    x: float
    y: float
    overlap: float
    mask: Tensor

    @property
    def place(self) -> str:
        return place_of(self.x, self.y)


@dataclass(frozen=True)
class Reading:
    """What the oracle sees: the objects from the largest to the smallest."""

    background: str
    objects: tuple[ReadObject, ...]


def read(images: Tensor) -> list[Reading]:
    """``[B, 3, S, S]`` in -1..1 -> one `Reading` each."""
    rgb = (images.detach().float().cpu().clamp(-1, 1) + 1) / 2
    return [_read_one(image) for image in rgb]


def agreement(reading: Reading, scene: Scene) -> dict[str, bool]:
    """What the plain sentence says of a scene -> whether the reading has it right.

    Of one object: ``background``, ``colour``, ``shape``, ``size``, ``place``, and ``shape and colour``
    together; the object read is the largest. Of several: ``background``; ``colours there``, a part of each
    colour and no other, of whatever shape; ``all there``, every shape as often as asked for; ``own
    colours``, every shape in its own colour. Of objects in a relation, where
    they are there with their colours: ``relation``. Of several alike: ``count``, as many parts of
    that colour as asked for and nothing else, and ``count of shapes``, all of them the shape.
    """
    right = {"background": reading.background == scene.background}
    if scene.kind == "one":
        return right | _one_object(reading, scene)
    if scene.kind == "count":
        item, wanted = scene.objects[0], len(scene.objects)
        exact = [read.colour for read in reading.objects] == [item.colour] * wanted
        right["count"] = exact
        right["count of shapes"] = exact and all(r.shape == item.shape for r in reading.objects)
        return right
    colours = sorted(read.colour for read in reading.objects)
    right["colours there"] = colours == sorted(item.colour for item in scene.objects)
    wanted_shapes = sorted(item.shape for item in scene.objects)
    right["all there"] = sorted(str(read.shape) for read in reading.objects) == wanted_shapes
    wanted_pairs = sorted((item.colour, item.shape) for item in scene.objects)
    pairs = sorted((read.colour, str(read.shape)) for read in reading.objects)
    right["own colours"] = pairs == wanted_pairs
    if scene.relation is not None and right["own colours"]:
        a, b = (_of_colour(reading, item.colour) for item in scene.objects)
        right["relation"] = relation_of(a.x - b.x, a.y - b.y) == scene.relation
    return right


def _one_object(reading: Reading, scene: Scene) -> dict[str, bool]:
    item, read = scene.objects[0], next(iter(reading.objects), None)
    colour = read is not None and read.colour == item.colour
    shape = read is not None and read.shape == item.shape
    return {
        "colour": colour,
        "shape": shape,
        "size": read is not None and read.size == item.size,
        "place": read is not None and read.place == item.place,
        "shape and colour": shape and colour,
    }


def _of_colour(reading: Reading, colour: str) -> ReadObject:
    return next(read for read in reading.objects if read.colour == colour)


def _read_one(rgb: Tensor) -> Reading:
    names = list(COLOURS)
    palette = torch.tensor(list(COLOURS.values()))
    labels = torch.cdist(rgb.flatten(1).T, palette).argmin(dim=1).view(rgb.shape[1:])  # [S, S]
    edge = _edge(labels)
    ground = int(labels[edge].mode().values)
    here = edge & (labels == ground)
    cores = [  # (colour, the part's pixels of that colour, without its outline)
        (colour, part)
        for colour in range(len(names))
        if colour != ground
        for part in _parts(labels == colour)
    ]
    objects = []
    for colour, part in cores:
        others = torch.stack([other for _, other in cores if other is not part] or [~here & here])
        mask = _soft_mask(rgb, here, part, others.any(dim=0))
        if float(mask.mean()) >= MIN_AREA:
            objects.append(_read_object(names[colour], mask))
    objects.sort(key=lambda read: -float(read.mask.sum()))
    return Reading(names[ground], tuple(objects))


def _read_object(colour: str, mask: Tensor) -> ReadObject:
    shape, radius, x, y, overlap = _fit(mask)
    if overlap < MIN_OVERLAP:
        return ReadObject(colour, None, None, x, y, overlap, mask)
    size = min(SIZES, key=lambda name: abs(SIZES[name] - radius))
    return ReadObject(colour, shape, size, x, y, overlap, mask)


def _edge(labels: Tensor) -> Tensor:
    """Which pixels lie along the border."""
    side = labels.shape[-1]
    width = max(1, EDGE * side // 64)
    edge = torch.ones_like(labels, dtype=torch.bool)
    edge[width:-width, width:-width] = False
    return edge


def _parts(pixels: Tensor) -> list[Tensor]:
    """The connected parts of a colour's pixels that are more than the blend of two others.

    Along an outline the blend is often nearest to a third colour, but never three pixels thick: a part
    is what is connected and has enough pixels whose neighbours are all of it.
    """
    inner = F.avg_pool2d(pixels.float()[None, None], 3, stride=1, padding=1)[0, 0] > 0.99
    least = MIN_AREA * pixels.numel() / 6
    if float(inner.sum()) <= least:
        return []
    numbers = torch.arange(1.0, pixels.numel() + 1).view(pixels.shape) * pixels
    while True:  # every pixel takes the largest number around it, until each part has one
        spread = F.max_pool2d(numbers[None, None], 3, stride=1, padding=1)[0, 0] * pixels
        if torch.equal(spread, numbers):
            break
        numbers = spread
    parts = [numbers == number for number in torch.unique(numbers[inner])]
    return [part for part in parts if float((part & inner).sum()) > least]


def _soft_mask(rgb: Tensor, ground: Tensor, part: Tensor, others: Tensor) -> Tensor:
    """How far each pixel near a part lies from the background's colour to the part's, 0..1: ``[S, S]``.

    Both colours are the medians of what was found, not the palette's. The first and the last quarter
    of the way count as 0 and 1: the sum of much faint noise would pass for an area.
    """
    a = rgb[:, ground].median(dim=1).values
    b = rgb[:, part].median(dim=1).values
    way = b - a
    along = torch.einsum("chw,c->hw", rgb - a[:, None, None], way) / way.square().sum()
    rim = RIM * rgb.shape[-1] // 64
    near = F.max_pool2d(part.float()[None, None], 2 * rim + 1, stride=1, padding=rim)[0, 0] > 0
    return (2 * along - 0.5).clamp(0, 1) * (near & ~others)


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
