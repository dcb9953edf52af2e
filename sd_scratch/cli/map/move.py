"""``sd-scratch map move``: walk among prompts, in the plane in which they differ most."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sd_scratch.cli.map.options import add_run, texts
from sd_scratch.cli.options import integer, number
from sd_scratch.errors import UsageError, log

if TYPE_CHECKING:
    from torch import Tensor

    from sd_scratch.cli.map.results import Results
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.movement import Place, Plane
    from sd_scratch.mapping.report import Report

HELP = "walk among similar prompts, in the plane in which their vectors differ most"
DIRECTIONS = {"up": (0, 1), "down": (0, -1), "right": (1, 0), "left": (-1, 0)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
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

    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.movement import check_count, make_plane, movement_report, read_path

    session = Session(args)
    for text in args.prompt:
        session.words(text, [])
    check_count(len(set(args.prompt)), args.components)
    texts = args.path or [str(i + 1) for i in range(len(args.prompt))]
    path = read_path(texts, len(args.prompt))
    if not args.interactive and len(path) > args.frames:
        raise UsageError(f"--frames {args.frames} are too few for {len(path)} places")
    if args.interactive and not sys.stdin.isatty():
        raise UsageError("--interactive needs a terminal to read keys from")
    results = session.results("move")
    plane = make_plane([session.encode(text) for text in args.prompt], args.components)
    if args.interactive:
        results.save(by_keys(session, plane, path, results), session.recipe)
        return
    with session.progress(args.frames, results) as bar:
        state = session.state(results, "prompt")
        report = movement_report(session.rendering(bar.update, state), plane, path, args.frames)
    report.facts.update({"path": texts, "frames": args.frames})
    results.save(report, session.recipe, state=state)


def by_keys(
    session: "Session", plane: "Plane", path: "Sequence[Place]", results: "Results"
) -> "Report":
    """A picture for every arrow key, in ``current.png``, from the path's first place on."""
    from sd_scratch.cli.map.keys import read_keys
    from sd_scratch.mapping.drawing import picture
    from sd_scratch.mapping.movement import visited_report
    from sd_scratch.pictures.png import encode_png

    (place,) = plane.corners(path[:1])
    extent = (plane.places.amax(dim=0) - plane.places.amin(dim=0)).max()
    stride = session.args.stride or float(extent) / 10
    rendering = session.rendering()
    places: list[list[float]] = []
    pictures: list[Tensor] = []

    def look() -> None:
        (pixels,) = rendering.pixels([plane.at(place)])
        places.append(place.tolist())
        pictures.append(pixels)
        results.write("current.png", encode_png(picture(pixels)))

    log.info(
        f"arrow keys go {stride:.3g} to the left, right, up or down in the plane; q or Escape ends. "
        f"Open {results.folder / 'current.png'} to see where you are."
    )
    look()
    for key in read_keys():
        if key in DIRECTIONS:
            step = place.new_zeros(len(place))
            step[:2] = place.new_tensor(DIRECTIONS[key])
            place = place + stride * step
            look()
        elif key:
            log.info(f"'{key}' does nothing: arrow keys go, q ends")
    return visited_report(rendering, plane, places, pictures)
