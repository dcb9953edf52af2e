"""Scenes to pictures and masks, at any resolution, from signed distances.

Each shape is a function from a point to its distance from the outline, negative inside, for the
shape of radius 1 around the origin. A pixel's coverage falls from 1 to 0 over one pixel across the
outline, which is the anti-aliasing.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sd_scratch.scenes.graph import Scene, SceneObject

Distance = Callable[[Tensor, Tensor], Tensor]


def disc(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1


def box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    """Distance to an axis-parallel rectangle around the origin."""
    dx, dy = x.abs() - half_width, y.abs() - half_height
    outside = torch.hypot(dx.clamp(min=0), dy.clamp(min=0))
    return outside + torch.maximum(dx, dy).clamp(max=0)


def polygon(vertices: Sequence[tuple[float, float]]) -> Distance:
    """Exact distance to a polygon: the nearest edge gives the size, the winding number the sign."""

    def distance(x: Tensor, y: Tensor) -> Tensor:
        nearest = torch.full_like(x, math.inf)
        crossings = torch.zeros_like(x, dtype=torch.bool)
        for (ax, ay), (bx, by) in zip(vertices, [*vertices[1:], vertices[0]], strict=True):
            ex, ey = bx - ax, by - ay
            px, py = x - ax, y - ay
            along = ((px * ex + py * ey) / (ex * ex + ey * ey)).clamp(0, 1)
            nearest = torch.minimum(nearest, (px - along * ex) ** 2 + (py - along * ey) ** 2)
            if ey != 0:  # does a ray to the right cross this edge?
                spans = (py >= 0) != (y - by >= 0)
                crossings = crossings ^ (spans & (px < py * (ex / ey)))
        return torch.where(crossings, -nearest.sqrt(), nearest.sqrt())

    return distance


def heart(x: Tensor, y: Tensor) -> Tensor:
    """A square standing on its corner, with a half-disc on each of its two upper sides."""
    half = 0.58  # half the square's side
    top = 0.18  # the whole is lifted so that it is centred
    y = y - top + 0.18 * 0.5
    u, v = (x + y) * math.sqrt(0.5), (x - y) * math.sqrt(0.5)
    square = box(u, v, half, half)
    shift = half * math.sqrt(0.5)
    lobes = torch.minimum(
        torch.hypot(x - shift, y + shift) - half, torch.hypot(x + shift, y + shift) - half
    )
    return torch.minimum(square, lobes)


def cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(box(x, y, 1.05, 0.36), box(x, y, 0.36, 1.05))


def ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.77).abs() - 0.23


def _regular(corners: int, radius: float, inner: float | None = None) -> list[tuple[float, float]]:
    """Corners of a regular polygon, one of them at the top, or of a star with `inner` radius."""
    radii = [radius] if inner is None else [radius, inner]
    count = corners * len(radii)
    return [
        (
            radii[i % len(radii)] * math.sin(2 * math.pi * i / count),
            -radii[i % len(radii)] * math.cos(2 * math.pi * i / count),
        )
        for i in range(count)
    ]


DISTANCES: dict[str, Distance] = {
    "circle": disc,
    "square": lambda x, y: box(x, y, 0.83, 0.83),
    "triangle": polygon(_regular(3, 1.17)),
    "star": polygon(_regular(5, 1.17, 0.50)),
    "heart": heart,
    "cross": cross,
    "diamond": polygon([(0.0, -1.17), (0.72, 0.0), (0.0, 1.17), (-0.72, 0.0)]),
    "ring": ring,
}


class Rendered(NamedTuple):
    """`images` [B, 3, S, S] in -1..1 and each object's visible share of every pixel, `masks`
    [B, K, S, S] in 0..1, with K the largest number of objects in a scene of the batch."""

    images: Tensor
    masks: Tensor


def coverage(shape: str, x: Tensor, y: Tensor, radius: Tensor, angle: Tensor, side: int) -> Tensor:
    """How much of every pixel a shape covers: parameters ``[N]`` (degrees) -> ``[N, side, side]``."""
    centres = (torch.arange(side, dtype=x.dtype) + 0.5) / side
    dx = (centres[None, None, :] - x[:, None, None]) / radius[:, None, None]
    dy = (centres[None, :, None] - y[:, None, None]) / radius[:, None, None]
    cos, sin = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
    u = cos[:, None, None] * dx + sin[:, None, None] * dy
    v = cos[:, None, None] * dy - sin[:, None, None] * dx
    distance = DISTANCES[shape](u, v) * radius[:, None, None]
    return (0.5 - distance * side).clamp(0, 1)


def render(scenes: Sequence[Scene], side: int) -> Rendered:
    """Draw scenes at `side` pixels; later objects cover earlier ones."""
    depth = max((len(scene.objects) for scene in scenes), default=0)
    images = torch.tensor([scene.background_rgb for scene in scenes])[:, :, None, None]
    images = images.expand(-1, -1, side, side).contiguous()
    masks = torch.zeros(len(scenes), depth, side, side)
    for k in range(depth):
        rows = [b for b, scene in enumerate(scenes) if len(scene.objects) > k]
        items = [scenes[b].objects[k] for b in rows]
        alpha = _coverages(items, side)
        masks[rows, :k] = masks[rows, :k] * (1 - alpha[:, None])
        masks[rows, k] = alpha
        rgb = torch.tensor([item.rgb for item in items])[:, :, None, None]
        images[rows] = torch.lerp(images[rows], rgb, alpha[:, None])
    return Rendered(images * 2 - 1, masks)


def _coverages(items: Sequence[SceneObject], side: int) -> Tensor:
    """Each object's own coverage ``[N, side, side]``, one shape at a time for speed."""
    alpha = torch.zeros(len(items), side, side)
    for shape in DISTANCES:
        rows = [i for i, item in enumerate(items) if item.shape == shape]
        if rows:
            values = [[items[i].x, items[i].y, items[i].radius, items[i].angle] for i in rows]
            x, y, radius, angle = torch.tensor(values).unbind(dim=1)
            alpha[rows] = coverage(shape, x, y, radius, angle, side)
    return alpha
