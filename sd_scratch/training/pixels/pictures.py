"""A folder of one's own pictures with a table of their classes.

``labels.csv`` begins with the line ``file,label``; every other line names a picture, relative to the
folder, and its class by any word. Pictures are cropped to a centred square and scaled to one side.
"""

import csv
import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sd_scratch.errors import ScratchError
from sd_scratch.training.pixels.images import LabelledImages

TABLE = "labels.csv"
MAX_CLASSES = 1000
LISTED = 10  # broken files that are named one by one

log = logging.getLogger(__name__)


def read_pictures(folder: Path, side: int) -> LabelledImages:
    """All readable pictures of a folder as RGB ``[N, 3, side, side]``; classes in alphabetical order.

    Files that are missing or no pictures are listed and left out. Raises `ScratchError` when the table
    is missing or malformed, or no picture is left.
    """
    images, labels, broken = [], [], []
    for name, label in _read_table(folder / TABLE):
        try:
            images.append(_read_picture(folder / name, side))
            labels.append(label)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
            broken.append(f"{name} ({_reason(error)})")
    if broken:
        more = f" and {len(broken) - LISTED} more" if len(broken) > LISTED else ""
        log.warning("%s - left out: %s%s", folder, ", ".join(broken[:LISTED]), more)
    if not images:
        raise ScratchError(f"{folder} - no picture could be read - see {TABLE} for their names")
    names = tuple(sorted(set(labels)))
    if len(names) > MAX_CLASSES:
        raise ScratchError(
            f"{folder} - {len(names):,} classes - at most {MAX_CLASSES} are possible"
        )
    numbers = torch.tensor([names.index(label) for label in labels])
    return LabelledImages(torch.stack(images), numbers, names, str(folder))


def _read_table(path: Path) -> list[tuple[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise ScratchError(
            f"{path} - no such file - write one: a line file,label, then one line per picture"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScratchError(f"{path} - cannot be read as a table: {_reason(error)}") from None
    if not rows or not {"file", "label"} <= rows[0].keys():
        raise ScratchError(f"{path} - its first line must name the columns file,label")
    for number, row in enumerate(rows, 2):
        if not row["file"] or not row["label"]:
            raise ScratchError(f"{path} - line {number} lacks a file or a label")
    return [(row["file"], row["label"].strip()) for row in rows]


def _read_picture(path: Path, side: int) -> Tensor:
    with Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    square = ImageOps.fit(upright, (side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0][:80].lower()
