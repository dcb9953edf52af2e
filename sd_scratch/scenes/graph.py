"""What a scene is: a background and one to four coloured shapes, drawn from (seed, index) alone.

Lengths are shares of the picture's width, x to the right and y down, so that a scene can be drawn
at any resolution. The vocabulary is fixed: it is what the captions speak of and what the oracle
reads back.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "diamond", "ring")

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

SIZES = {"small": 0.15, "medium": 0.19, "large": 0.25}

COLUMNS = ("left", "centre", "right")
ROWS = ("top", "middle", "bottom")
PLACES = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)

RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Where the first of two objects stands, seen from the second."""
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

KINDS = {"one": 0.40, "two": 0.38, "three": 0.08, "count": 0.14}
"""How often each kind of scene is drawn: one object; two in a relation; three; two to four alike."""
COUNTS = (2, 3, 4)

REACH = {"circle": 1.0, "ring": 1.0, "heart": 1.12, "cross": 1.13}
WIDEST = 1.18  # radii that no shape's outline exceeds
BORDERS = (0.4, 0.6)  # between left, centre and right, and between top, middle and bottom
MARGIN = 0.02  # kept free along the picture's edge
GAP = 0.03  # kept free between two objects
APART = 0.18  # two related objects' centres are at least this far apart along their relation
ASKEW = 0.75  # and at most this share of that distance across it
TRIES = 150  # arrangements of the same sizes before others are drawn
COLOUR_JITTER = 0.02
RADIUS_JITTER = 0.04  # relative
ANGLE_JITTER = 10.0  # degrees

# The first model that this one goes on from had seen all colours of its six shapes, so that only
# the shapes that it did not know can be held out with some colours.
NEW_SHAPES = ("diamond", "ring")
HELD_OUT_SHARE = {"pair": 0.25, "triple": 0.1}


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
    """A background and the objects on it, none in front of another. With a `relation` there are two,
    and it says where the first stands, seen from the second."""

    background: str
    background_rgb: tuple[float, float, float]
    objects: tuple[SceneObject, ...]
    relation: str | None = None

    @property
    def kind(self) -> str:
        """``one``, ``two``, ``three``, or ``count`` for several alike."""
        if len(self.objects) == 1:
            return "one"
        if len({item.colour for item in self.objects}) == 1:
            return "count"
        return "two" if len(self.objects) == 2 else "three"

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


def relation_of(dx: float, dy: float) -> str:
    """Where something `dx`, `dy` away from another stands, seen from it."""
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def held_out_pair(colour: str, shape: str) -> bool:
    """Whether no training shows this shape in this colour; by hash, and so the same for ever."""
    return shape in NEW_SHAPES and _hash(colour, shape) < HELD_OUT_SHARE["pair"]


def held_out_triple(first: str, relation: str, second: str) -> bool:
    """Whether no training shows these two shapes in this relation, said from either side."""
    if relation in ("right of", "below"):
        first, relation, second = second, INVERSE[relation], first
    return _hash(first, relation, second) < HELD_OUT_SHARE["triple"]


def _hash(*words: str) -> float:
    """A number in 0..1 that depends on nothing but the words."""
    return int.from_bytes(hashlib.sha256(" ".join(words).encode()).digest()[:4], "big") / 2**32


PAIRS = tuple(itertools.product(COLOURS, SHAPES))
SEEN_PAIRS = tuple(pair for pair in PAIRS if not held_out_pair(*pair))
UNSEEN_PAIRS = tuple(pair for pair in PAIRS if held_out_pair(*pair))
UNSEEN_TRIPLES = tuple(  # of shapes that come in a colour that training may show
    (first, second, relation)
    for first, second in itertools.product(SHAPES, SHAPES)
    for relation in RELATIONS
    if held_out_triple(first, relation, second) and not {first, second} & set(NEW_SHAPES)
)


def generator(seed: int, index: int, stream: int = 0) -> np.random.Generator:
    """Independent random numbers for each picture, and for each `stream` of choices about it."""
    return np.random.default_rng([seed, index, stream])


def sample_scene(
    seed: int, index: int, kind: str | None = None, *, unseen: str | None = None
) -> Scene:
    """Scene number `index`, of a `kind` of `KINDS` or of any.

    Every attribute is drawn evenly and apart from the others. Nothing that is held out is in it, unless
    `unseen` asks for it: with ``pair`` the first object's colour and shape are a held-out pair, with
    ``triple`` the shapes of two objects stand in a held-out relation.
    """
    rng = generator(seed, index)
    drawn = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    kind = kind or drawn
    count = {"one": 1, "two": 2, "three": 3}.get(kind) or int(rng.choice(COUNTS))
    pairs = _draw_pairs(rng, kind, count, UNSEEN_PAIRS if unseen == "pair" else SEEN_PAIRS)
    background = str(rng.choice([c for c in COLOURS if c not in {colour for colour, _ in pairs}]))
    relation = None
    if kind == "two":
        if unseen == "triple":
            colours = [colour for colour, _ in pairs]
            *shapes, relation = UNSEEN_TRIPLES[int(rng.integers(len(UNSEEN_TRIPLES)))]
            pairs = list(zip(colours, shapes, strict=True))
        else:
            relation = _draw_relation(rng, pairs[0][1], pairs[1][1])
    sizes, radii, centres = _arrange(rng, [shape for _, shape in pairs], kind, relation)
    objects = tuple(
        SceneObject(
            shape, colour, size, x, y, radius,
            angle=float(rng.uniform(-ANGLE_JITTER, ANGLE_JITTER)),
            rgb=_jittered(rng, colour),
        )
        for (colour, shape), size, radius, (x, y) in zip(pairs, sizes, radii, centres, strict=True)
    )  # fmt: skip
    return Scene(background, _jittered(rng, background), objects, relation)


def crowded_scene(seed: int, index: int) -> Scene:
    """Of scenes 2 `index` and 2 `index` + 1 the one with more objects: with one object there are then
    16 % where there were 40, with three and four 32 % where there were 17."""
    first, second = (sample_scene(seed, 2 * index + i) for i in range(2))
    return second if len(second.objects) > len(first.objects) else first


def _draw_pairs(
    rng: np.random.Generator, kind: str, count: int, first: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Colour and shape of each object: all alike for a count, else all of different colours."""
    pairs = [first[int(rng.integers(len(first)))]]
    if kind == "count":
        return pairs * count
    while len(pairs) < count:
        pair = SEEN_PAIRS[int(rng.integers(len(SEEN_PAIRS)))]
        if pair[0] not in {colour for colour, _ in pairs}:
            pairs.append(pair)
    return pairs


def _draw_relation(rng: np.random.Generator, first: str, second: str) -> str:
    """A relation that these shapes may be shown in."""
    return str(rng.choice([r for r in RELATIONS if not held_out_triple(first, r, second)]))


def _arrange(
    rng: np.random.Generator, shapes: list[str], kind: str, relation: str | None
) -> tuple[list[str], list[float], list[tuple[float, float]]]:
    """Sizes, radii and centres: drawn until nothing touches and the relation holds."""
    reach_of = [REACH.get(shape, WIDEST) for shape in shapes]
    while True:
        size = str(rng.choice(list(SIZES)))
        sizes = [size if kind == "count" else str(rng.choice(list(SIZES))) for _ in shapes]
        radii = [SIZES[s] * (1 + RADIUS_JITTER * rng.uniform(-1, 1)) for s in sizes]
        if len(shapes) == 1:
            return sizes, radii, [(_coordinate(rng, radii[0]), _coordinate(rng, radii[0]))]
        reaches = np.asarray(reach_of) * radii
        low = reaches + MARGIN
        drawn = rng.uniform(low, 1 - low, size=(TRIES, 2, len(shapes)))
        good = _free(drawn, reaches)
        if relation is not None:
            good &= _holds(relation, drawn)
        if good.any():
            xs, ys = drawn[good.argmax()].tolist()
            return sizes, radii, list(zip(xs, ys, strict=True))


def _free(centres: Array, reaches: Array) -> Array:
    """Whether no two objects come closer than `GAP`: centres ``[N, 2, K]``, reaches ``[K]`` -> ``[N]``."""
    free = np.ones(len(centres), dtype=bool)
    for i, j in itertools.combinations(range(len(reaches)), 2):
        apart = np.hypot(*(centres[:, :, i] - centres[:, :, j]).T)
        free &= apart >= reaches[i] + reaches[j] + GAP
    return free


def _holds(relation: str, centres: Array) -> Array:
    """Whether the first clearly stands in `relation` to the second: ``[N, 2, 2]`` -> ``[N]``."""
    dx, dy = (centres[:, :, 0] - centres[:, :, 1]).T
    x, y = RELATIONS[relation]
    along, across = dx * x + dy * y, np.abs(dx * y) + np.abs(dy * x)
    holds: Array = (along >= APART) & (across <= ASKEW * along)
    return holds


def _coordinate(rng: np.random.Generator, radius: float) -> float:
    """One coordinate of a centre: a third of the picture first, so that all places that a shape of
    this radius can have are equally frequent."""
    edges = [WIDEST * radius + MARGIN, *BORDERS, 1 - WIDEST * radius - MARGIN]
    third = rng.integers(3)
    low, high = edges[third], edges[third + 1]
    gap = 0.05 * (high - low)  # not on the very border between two places
    return float(rng.uniform(low + gap, high - gap))


def _jittered(rng: np.random.Generator, colour: str) -> tuple[float, float, float]:
    shade = np.asarray(COLOURS[colour]) + rng.uniform(-COLOUR_JITTER, COLOUR_JITTER, 3)
    r, g, b = np.clip(shade, 0.0, 1.0).tolist()
    return r, g, b
