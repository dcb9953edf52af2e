"""Moving among prompts: the plane in which some prompts' vectors differ most, and ways through it.

Principal components (Pearson 1901; by singular value decomposition of the centred vectors): prompt i
has the vectors c_i, all tokens and channels in one row; the rows of V are the directions, of length
1, along which the rows differ most, and prompt i stands at (c_i - mean) V^T.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sd_scratch.errors import UsageError
from sd_scratch.pipeline.prompt import Prompt


@dataclass(frozen=True, eq=False)
class Components:
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
            f"least {count + 1} different prompts",
        )


def principal_components(rows: Tensor, count: int) -> Components:
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
    return Components(mean, directions, values[:count].square() / values.square().sum())


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
    components: Components
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


def make_plane(prompts: Sequence[Prompt], count: int = 2) -> Plane:
    """The plane (or line, or space) of some prompts. Raises ScratchError as `principal_components`."""
    check_count(len(prompts), count)
    rows = torch.cat([prompt.context for prompt in prompts]).flatten(1)
    components = principal_components(rows, count)
    return Plane(tuple(prompts), components, components.project(rows.cpu()))


def walk(corners: Tensor, frames: int) -> Tensor:
    """`frames` places from the first corner to the last on straight lines, every corner among them, the
    rest as even as that allows: ``[corners, k]`` to ``[frames, k]``.

    Raises ScratchError (bad usage) for fewer than two corners, or fewer frames than corners.
    """
    if not 2 <= len(corners) <= frames:
        raise UsageError(
            f"a path of {len(corners)} places and {frames} frames - it needs two places at least, and "
            "a frame for each",
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
