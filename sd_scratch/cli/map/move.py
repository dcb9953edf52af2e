"""``sd-scratch map move``: walk among prompts, in the plane in which they differ most."""

import argparse
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sd_scratch.cli.map.options import add_run, texts
from sd_scratch.cli.options import integer, number
from sd_scratch.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from sd_scratch.cli.map.results import Results
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.movement import Plane

HELP = "walk among similar prompts, in the plane in which their vectors differ most"
DIRECTIONS = {"up": (0, 1), "down": (0, -1), "right": (1, 0), "left": (-1, 0)}
COLUMNS = 6
FRAME = 250  # milliseconds
GIF_SIDE = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # So that a path may start with a minus: "-1:0,1" is no flag.
    parser._negative_number_matcher = re.compile(r"^-(\d|\.\d)")
    parser.add_argument(
        "prompt", metavar="PROMPT", nargs="+", help="the landmarks: similar prompts, at least three"
    )
    parser.add_argument(
        "--path",
        type=texts,
        metavar="PLACES",
        help="landmarks by number and places by X:Y, such as 1,3,20:-5 (default: all landmarks, in "
        "order)",
    )
    parser.add_argument(
        "--frames", type=integer(2, 1000), default=12, help="pictures on the way (default: 12)"
    )
    parser.add_argument("--components", type=integer(2, 16), default=2, help=argparse.SUPPRESS)
    parser.add_argument(
        "--interactive",
        action="store_true",
        help="go by arrow keys from the first landmark; q ends",
    )
    parser.add_argument(
        "--stride",
        type=number(1e-6, 1e6),
        help="how far an arrow key goes (default: a tenth of the plane)",
    )
    add_run(parser)


def run(args: argparse.Namespace) -> None:
    import sys

    from sd_scratch.cli.map.results import Results
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.movement import check_count, make_plane

    session = Session(args)
    for text in args.prompt:
        session.words(text, [])
    check_count(len(set(args.prompt)), args.components)
    path = read_path(args.path or [str(i + 1) for i in range(len(args.prompt))], len(args.prompt))
    if not args.interactive and len(path) > args.frames:
        raise UsageError(f"--frames {args.frames} are too few for {len(path)} places")
    if args.interactive and not sys.stdin.isatty():
        raise UsageError("--interactive needs a terminal to read keys from")
    results = Results(args.output, "move", overwrite=args.overwrite)
    plane = make_plane([session.encode(text) for text in args.prompt], args.components)
    visit = by_keys if args.interactive else along
    places, pictures = visit(session, plane, path, results)
    save(session, results, plane, places, pictures)


def read_path(places: Sequence[str], landmarks: int) -> list[int | tuple[float, float]]:
    """``1`` is the first landmark (returned as 0), ``20:-5`` a place of the plane."""
    path: list[int | tuple[float, float]] = []
    for place in places:
        x, colon, y = place.partition(":")
        try:
            path.append((float(x), float(y)) if colon else int(x) - 1)
        except ValueError:
            raise UsageError(
                f"--path: '{place}' is no place - write a landmark's number, or X:Y"
            ) from None
        if not colon and not 0 <= int(x) - 1 < landmarks:
            raise UsageError(f"--path: there is no landmark {x}, of {landmarks}")
    if len(path) < 2:
        raise UsageError("--path needs two places at least, such as 1,2")
    return path


Visited = tuple[list[list[float]], list["Image.Image"]]


def along(
    session: "Session", plane: "Plane", path: "list[int | tuple[float, float]]", results: "Results"
) -> Visited:
    """Pictures at about even distances on the path."""
    from sd_scratch.mapping.drawing import picture
    from sd_scratch.mapping.movement import walk

    corners = _corners(plane, path)
    places = walk(corners, session.args.frames)
    with session.progress(len(places)) as bar:
        pixels = session.rendering(bar.update).pixels([plane.at(place) for place in places])
    return places.tolist(), [picture(frame) for frame in pixels]


def by_keys(
    session: "Session", plane: "Plane", path: "list[int | tuple[float, float]]", results: "Results"
) -> Visited:
    """A picture for every arrow key, in ``current.png``, from the path's first place on."""
    from sd_scratch.cli.map.keys import read_keys
    from sd_scratch.mapping.drawing import picture

    place = _corners(plane, path)[0]
    extent = (plane.places.amax(dim=0) - plane.places.amin(dim=0)).max()
    stride = session.args.stride or float(extent) / 10
    rendering = session.rendering(lambda count: None)
    places: list[list[float]] = []
    pictures: list[Image.Image] = []

    def look() -> None:
        (pixels,) = rendering.pixels([plane.at(place)])
        places.append(place.tolist())
        pictures.append(picture(pixels))
        results.picture("current.png", pictures[-1])

    look()
    for key in read_keys():
        if key in DIRECTIONS:
            step = place.new_zeros(len(place))
            step[:2] = place.new_tensor(DIRECTIONS[key])
            place = place + stride * step
            look()
    return places, pictures


def save(
    session: "Session",
    results: "Results",
    plane: "Plane",
    places: list[list[float]],
    pictures: "list[Image.Image]",
) -> None:
    from sd_scratch.mapping.charts import plane_chart
    from sd_scratch.mapping.drawing import Cell, sheet
    from sd_scratch.pictures.gif import encode_gif

    labels = [prompt.text for prompt in plane.landmarks]
    explained = plane.components.explained.tolist()
    axes = tuple(
        f"component {i + 1}, {part:.0%} of the variance" for i, part in enumerate(explained)
    )
    marks = plane.places.tolist()
    chart = plane_chart([p[:2] for p in marks], labels, [p[:2] for p in places], (axes[0], axes[1]))
    note = (
        "Red: the prompts, where their text vectors stand in the plane in which they differ most. "
        "Blue: the pictures on the way, by number. One unit is one unit of length of the text vectors."
    )
    named = "; ".join(f"{i}: {label}" for i, label in enumerate(labels, start=1))
    notes = [f"Landmarks: {named}.", note]
    figure = sheet("The plane of the prompts", [[Cell(chart, enlarge=False)]], notes=notes)
    results.picture("plane.png", figure)
    cells = [
        Cell(picture, f"{i}: ({place[0]:.3g}, {place[1]:.3g}){reached(place, marks)}")
        for i, (picture, place) in enumerate(zip(pictures, places, strict=True), start=1)
    ]
    rows = [cells[i : i + COLUMNS] for i in range(0, len(cells), COLUMNS)]
    notes = [
        f"Landmarks: {named}.",
        f"All from the same noise (seed {session.recipe.seed}). Under each picture its place in the "
        "plane. A landmark's own place gives that prompt's own picture.",
    ]
    results.picture("strip.png", sheet("Pictures on the way", rows, notes=notes))
    results.write("move.gif", encode_gif([enlarge(p) for p in pictures], FRAME))
    header = ("what", "number", "text", *(f"component {i + 1}" for i in range(len(explained))))
    landmarks = [
        ("landmark", i, t, *p) for i, (t, p) in enumerate(zip(labels, marks, strict=True), 1)
    ]
    frames = [("picture", i, "", *place) for i, place in enumerate(places, start=1)]
    results.table("places.csv", header, [*landmarks, *frames])
    results.settings(session.recipe, landmarks=labels, explained=explained, places=places)


def reached(place: Sequence[float], marks: Sequence[Sequence[float]]) -> str:
    """Which landmark a place is, if any, up to rounding."""
    near = 1e-6 * max(abs(value) for mark in marks for value in mark)
    return "".join(
        f", landmark {i}" for i, mark in enumerate(marks, start=1) if math.dist(place, mark) < near
    )


def enlarge(picture: "Image.Image") -> "Image.Image":
    """A small picture with every pixel drawn several times as large."""
    factor = max(1, GIF_SIDE // min(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), 0)


def _corners(plane: "Plane", path: "list[int | tuple[float, float]]") -> "Tensor":
    import torch

    rest = [0.0] * (plane.places.shape[1] - 2)
    return torch.stack(
        [
            plane.places[place]
            if isinstance(place, int)
            else plane.places.new_tensor([*place, *rest])
            for place in path
        ]
    )
