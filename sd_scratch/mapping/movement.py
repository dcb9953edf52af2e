"""Moving among prompts: the plane in which some prompts' vectors differ most, and ways through it.

Principal components (Pearson 1901; by singular value decomposition of the centred vectors): prompt i
has the vectors c_i, all tokens and channels in one row; the rows of V are the directions, of length
1, along which the rows differ most, and prompt i stands at (c_i - mean) V^T.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from sd_scratch.errors import UsageError
from sd_scratch.limits import read_integer, read_number
from sd_scratch.mapping.charts import plane_chart
from sd_scratch.mapping.drawing import Cell, enlarged, picture, sheet
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.mapping.report import Report, Table
from sd_scratch.pictures.gif import encode_gif
from sd_scratch.pipeline.prompt import Prompt

COLUMNS = 6
FRAME = 250  # milliseconds
GIF_SIDE = 256
Place = int | tuple[float, float]
"""A landmark by its number, from 0, or a place of the plane."""


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """Principal components of the rows of a matrix.

    Attributes:
        mean: ``[D]``, the centre of the rows.
        directions: ``[k, D]``, orthonormal; the largest entry of each is positive, since the
            decomposition leaves the sign open.
        explained: ``[k]``, each direction's part of the whole variance, 0..1.
    """

    mean: Tensor = field(repr=False)
    directions: Tensor = field(repr=False)
    explained: Tensor

    def project(self, rows: Tensor) -> Tensor:
        """``[n, D]`` to coordinates ``[n, k]``."""
        return (rows.double() - self.mean) @ self.directions.T

    def embed(self, coordinates: Tensor) -> Tensor:
        """Steps in the plane ``[n, k]`` to steps in the space ``[n, D]``."""
        return coordinates.double() @ self.directions


def check_count(rows: int, count: int) -> None:
    """Raise ScratchError (bad usage) for more components than `rows` rows have directions."""
    if not 1 <= count < rows:
        raise UsageError(
            f"{rows} prompts differ along {max(rows - 1, 0)} directions - {count} components need at "
            f"least {count + 1} different prompts"
        )


def principal_components(rows: Tensor, count: int) -> PrincipalComponents:
    """The first `count` principal components of ``[n, D]``, in float64.

    Raises ScratchError (bad usage) for fewer than `count` + 1 rows, or rows that are all the same.
    """
    check_count(len(rows), count)
    rows = rows.detach().double().cpu()
    mean = rows.mean(dim=0)
    _, values, directions = torch.linalg.svd(rows - mean, full_matrices=False)
    if not values[count - 1] > 1e-9 * rows.norm():
        raise UsageError("the prompts do not differ in so many directions")
    directions = directions[:count]
    largest = directions.abs().argmax(dim=1, keepdim=True)
    directions = directions * directions.gather(1, largest).sign()
    return PrincipalComponents(mean, directions, values[:count].square() / values.square().sum())


@dataclass(frozen=True, eq=False)
class Plane:
    """Landmarks in the plane of their principal components. Axes are in units of length of the text
    vectors.

    Attributes:
        landmarks: the prompts.
        components: of their vectors.
        places: ``[landmarks, k]``, where they stand.
    """

    landmarks: tuple[Prompt, ...]
    components: PrincipalComponents
    places: Tensor

    def at(self, place: Tensor) -> Prompt:
        """The prompt at a place ``[k]``.

        What sets a landmark apart from the plane is lent to its surroundings, weighted by the inverse
        square of the distance (Shepard 1968): the place of a landmark is the landmark itself, and far
        from all of them nothing but the plane is left.
        """
        first = self.landmarks[0]
        rows = torch.cat([prompt.context for prompt in self.landmarks]).flatten(1).cpu()
        apart = rows - self.components.mean - self.components.embed(self.places)
        square = (self.places - place).square().sum(dim=1)
        here = square < 1e-12 * self.places.square().sum()
        weights = here.double() if here.any() else 1 / square
        weights = weights / weights.sum()
        vectors = self.components.mean + self.components.embed(place[None])[0] + weights @ apart
        context = vectors.view_as(first.context)
        return first.with_context(context.to(first.context.device, first.context.dtype))

    def corners(self, path: Sequence[Place]) -> Tensor:
        """Where the places of a path stand, ``[places, k]``."""
        rest = [0.0] * (self.places.shape[1] - 2)
        return torch.stack(
            [
                self.places[p] if isinstance(p, int) else self.places.new_tensor([*p, *rest])
                for p in path
            ]
        )


def read_path(texts: Sequence[str], landmarks: int) -> list[Place]:
    """``1`` is the first landmark (returned as 0), ``20:-5`` a place of the plane.

    Raises UsageError for what is neither, a landmark that is not there, and fewer than two places.
    """
    path: list[Place] = []
    for text in texts:
        x, colon, y = text.partition(":")
        place = (read_number(x), read_number(y)) if colon else (read_integer(x),)
        if not all(value is not None and math.isfinite(value) for value in place):
            raise UsageError(f"path: '{text}' is no place - write a landmark's number, or X:Y")
        if not colon and not 1 <= int(x) <= landmarks:
            raise UsageError(f"path: there is no landmark {x}, of {landmarks}")
        path.append((float(x), float(y)) if colon else int(x) - 1)
    if len(path) < 2:
        raise UsageError("a path needs two places at least, such as 1,2")
    return path


def make_plane(prompts: Sequence[Prompt], count: int = 2) -> Plane:
    """The plane (or line, or space) of some prompts. Raises ScratchError as `principal_components`."""
    check_count(len(prompts), count)
    chunks = max(len(prompt.encoding.chunks) for prompt in prompts)
    prompts = [prompt.padded(chunks) for prompt in prompts]
    rows = torch.cat([prompt.context for prompt in prompts]).flatten(1)
    components = principal_components(rows, count)
    return Plane(tuple(prompts), components, components.project(rows.cpu()))


def places_along(corners: Tensor, frames: int) -> Tensor:
    """`frames` places from the first corner to the last on straight lines, every corner among them, the
    rest as even as that allows: ``[corners, k]`` to ``[frames, k]``.

    Raises ScratchError (bad usage) for fewer than two corners, or fewer frames than corners.
    """
    if not 2 <= len(corners) <= frames:
        raise UsageError(
            f"a path of {len(corners)} places and {frames} frames - it needs two places at least, and "
            "a frame for each"
        )
    lengths = (corners[1:] - corners[:-1]).norm(dim=1)
    steps = torch.ones_like(lengths)
    for _ in range(frames - len(corners)):
        steps[(lengths / steps).argmax()] += 1  # where strides are longest
    places = [corners[:1]]
    for first, second, count in zip(corners[:-1], corners[1:], steps.tolist(), strict=True):
        shares = torch.arange(1, count + 1, dtype=corners.dtype) / count
        places.append(first + shares[:, None] * (second - first))
    return torch.cat(places)


def movement_report(
    rendering: Rendering, plane: Plane, path: Sequence[Place], frames: int = 12
) -> Report:
    """Pictures at about even distances on a path, as a strip and as an animation, and the plane."""
    places = places_along(plane.corners(path), frames)
    pixels = rendering.pixels([plane.at(place) for place in places])
    return visited_report(rendering, plane, places.tolist(), list(pixels))


def visited_report(
    rendering: Rendering, plane: Plane, places: Sequence[Sequence[float]], pixels: Sequence[Tensor]
) -> Report:
    """The same of pictures ``[3, H, W]`` uint8 that were made at some places already."""
    labels = [prompt.text for prompt in plane.landmarks]
    explained = plane.components.explained.tolist()
    marks = plane.places.tolist()
    pictures = [picture(each) for each in pixels]
    named = "; ".join(f"{i}: {label}" for i, label in enumerate(labels, start=1))
    cells = [
        Cell(image, f"{i}: ({place[0]:.3g}, {place[1]:.3g}){reached(place, marks)}")
        for i, (image, place) in enumerate(zip(pictures, places, strict=True), start=1)
    ]
    notes = [
        f"Landmarks: {named}.",
        f"All from the same noise (seed {rendering.noise.seeds[0]}). Under each picture its place in the "
        "plane. A landmark's own place gives that prompt's own picture.",
    ]
    rows = [cells[i : i + COLUMNS] for i in range(0, len(cells), COLUMNS)]
    header = ("what", "number", "text", *(f"component {i + 1}" for i in range(len(explained))))
    landmarks = [
        ("landmark", i, t, *p) for i, (t, p) in enumerate(zip(labels, marks, strict=True), 1)
    ]
    visited = [("picture", i, "", *place) for i, place in enumerate(places, start=1)]
    return Report(
        {
            "plane": _plane_figure(labels, marks, places, explained, notes[0]),
            "strip": sheet("Pictures on the way", rows, notes=notes),
        },
        films={"move": encode_gif([enlarged(image, GIF_SIDE) for image in pictures], FRAME)},
        tables={"places": Table(header, [*landmarks, *visited])},
        facts={"landmarks": labels, "explained": explained, "places": [list(p) for p in places]},
    )


def _plane_figure(
    labels: Sequence[str],
    marks: Sequence[Sequence[float]],
    places: Sequence[Sequence[float]],
    explained: Sequence[float],
    named: str,
) -> Image.Image:
    across, up = (
        f"component {i + 1}, {part:.0%} of the variance" for i, part in enumerate(explained[:2])
    )
    chart = plane_chart([p[:2] for p in marks], labels, [p[:2] for p in places], (across, up))
    note = (
        "Red: the prompts, where their text vectors stand in the plane in which they differ most. "
        "Blue: the pictures on the way, by number. One unit is one unit of length of the text vectors."
    )
    return sheet("The plane of the prompts", [[Cell(chart, enlarge=False)]], notes=[named, note])


def reached(place: Sequence[float], marks: Sequence[Sequence[float]]) -> str:
    """Which landmark a place is, if any, up to rounding."""
    near = 1e-6 * max(abs(value) for mark in marks for value in mark)
    return "".join(
        f", landmark {i}" for i, mark in enumerate(marks, start=1) if math.dist(place, mark) < near
    )
