"""``map move --interactive``: a walk by keys in the plane of some prompts."""

from collections.abc import Sequence

from torch import Tensor

from sd_scratch.cli.map import keys
from sd_scratch.cli.map.results import Results
from sd_scratch.cli.map.session import Session
from sd_scratch.errors import log
from sd_scratch.mapping.drawing import picture
from sd_scratch.mapping.movement import Place, Plane, visited_report
from sd_scratch.mapping.report import Report
from sd_scratch.pictures.png import encode_png

DIRECTIONS = {"up": (0, 1), "down": (0, -1), "right": (1, 0), "left": (-1, 0)}


def by_keys(session: Session, plane: Plane, path: Sequence[Place], results: "Results") -> Report:
    """A picture for every arrow key, in ``current.png``, from the path's first place on."""
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
    for key in keys.read_keys():
        if key in DIRECTIONS:
            step = place.new_zeros(len(place))
            step[:2] = place.new_tensor(DIRECTIONS[key])
            place = place + stride * step
            look()
        elif key:
            log.info(f"'{key}' does nothing: arrow keys go, q ends")
    return visited_report(rendering, plane, places, pictures)
