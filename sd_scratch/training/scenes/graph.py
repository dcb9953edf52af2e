"""What a scene is: a background and a few coloured shapes, drawn from (seed, index) alone.

Lengths are shares of the picture's width, x to the right and y down, so that a scene can be drawn
at any resolution. The vocabulary is fixed: it is what the captions speak of and what the oracle
reads back.
"""

import itertools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.10),
    "green": (0.10, 0.62, 0.16),
    "blue": (0.12, 0.25, 0.90),
    "yellow": (0.98, 0.90, 0.10),
    "orange": (1.00, 0.50, 0.00),
    "purple": (0.50, 0.10, 0.65),
    "pink": (1.00, 0.55, 0.80),
    "cyan": (0.15, 0.85, 0.95),
    "white": (0.97, 0.97, 0.97),
    "black": (0.04, 0.04, 0.04),
}
"""RGB in 0..1; every two of them are at least 0.4 apart."""

SIZES = {"small": 0.19, "medium": 0.25, "large": 0.33}

COLUMNS = ("left", "centre", "right")
ROWS = ("top", "middle", "bottom")
PLACES = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)

REACH = 1.18  # no shape reaches further than this many radii from its centre
BORDERS = (0.4, 0.6)  # between left, centre and right, and between top, middle and bottom
MARGIN = 0.02  # kept free along the picture's edge
COLOUR_JITTER = 0.02
RADIUS_JITTER = 0.04  # relative
ANGLE_JITTER = 10.0  # degrees


@dataclass(frozen=True)
class SceneObject:
    """One shape. `radius` is the size's own, slightly jittered; `angle` is in degrees."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float
    rgb: tuple[float, float, float]

    @property
    def place(self) -> str:
        return place_of(self.x, self.y)


@dataclass(frozen=True)
class Scene:
    """A background and the objects on it, the first in front of none of the others."""

    background: str
    background_rgb: tuple[float, float, float]
    objects: tuple[SceneObject, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, with each object's place beside its coordinates."""
        scene = asdict(self)
        for plain, item in zip(scene["objects"], self.objects, strict=True):
            plain["place"] = item.place
        return scene


def place_of(x: float, y: float) -> str:
    """The name of the ninth of the picture in which a centre lies: ``top left``."""
    column = sum(x > border for border in BORDERS)
    row = sum(y > border for border in BORDERS)
    return f"{ROWS[row]} {COLUMNS[column]}"


def generator(seed: int, index: int, stream: int = 0) -> np.random.Generator:
    """Independent random numbers for each picture, and for each `stream` of choices about it."""
    return np.random.default_rng([seed, index, stream])


def sample_scene(seed: int, index: int) -> Scene:
    """Scene number `index`: one object, every attribute drawn evenly and apart from the others."""
    rng = generator(seed, index)
    background, colour = rng.choice(list(COLOURS), size=2, replace=False)
    size = str(rng.choice(list(SIZES)))
    radius = SIZES[size] * (1 + RADIUS_JITTER * rng.uniform(-1, 1))
    item = SceneObject(
        shape=str(rng.choice(SHAPES)),
        colour=str(colour),
        size=size,
        x=_coordinate(rng, radius),
        y=_coordinate(rng, radius),
        radius=radius,
        angle=float(rng.uniform(-ANGLE_JITTER, ANGLE_JITTER)),
        rgb=_jittered(rng, str(colour)),
    )
    return Scene(str(background), _jittered(rng, str(background)), (item,))


def _coordinate(rng: np.random.Generator, radius: float) -> float:
    """One coordinate of a centre: a third of the picture first, so that all places that a shape of
    this radius can have are equally frequent."""
    edges = [REACH * radius + MARGIN, *BORDERS, 1 - REACH * radius - MARGIN]
    thirds = [(a, b) for a, b in itertools.pairwise(edges) if b - a > 0.02]
    low, high = thirds[rng.integers(len(thirds))] if thirds else (0.5, 0.5)
    gap = 0.05 * (high - low)  # not on the very border between two places
    return float(rng.uniform(low + gap, high - gap))


def _jittered(rng: np.random.Generator, colour: str) -> tuple[float, float, float]:
    shade = np.asarray(COLOURS[colour]) + rng.uniform(-COLOUR_JITTER, COLOUR_JITTER, 3)
    r, g, b = np.clip(shade, 0.0, 1.0).tolist()
    return r, g, b
