"""The reverse process as a small film."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from sd_scratch.files import write_file
from sd_scratch.pictures.gif import encode_gif
from sd_scratch.pictures.grid import grid

FRAME = 80  # milliseconds
LAST_FRAME = 1600


def encode_film(stages: Sequence[Tensor], columns: int, zoom: int = 2) -> bytes:
    """Sheets of pictures ``[B, 3, H, W]`` in -1..1, one after the other, as a GIF."""
    frames = [grid(stage, columns, zoom) for stage in stages]
    return encode_gif(frames, FRAME, last=LAST_FRAME)


def save_film(stages: Sequence[Tensor], path: Path, columns: int, zoom: int = 2) -> None:
    """Write a film, over the one that is there. Raises `ScratchError` when it cannot be written."""
    write_file(path, encode_film(stages, columns, zoom), overwrite=True)
