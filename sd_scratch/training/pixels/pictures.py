"""A folder of one's own pictures with a table of their classes.

``labels.csv`` begins with the line ``file,label``; every other line names a picture, relative to the
folder, and its class by any word. It is read as spreadsheets write it: with commas, semicolons or tabs,
in UTF-8 or UTF-16. Pictures are cropped to a centred square and scaled to one side.
"""

import codecs
import csv
import io
import unicodedata
from pathlib import Path, PurePath, PureWindowsPath

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sd_scratch.errors import ScratchError, log
from sd_scratch.files import at_home, read_file
from sd_scratch.pictures.read import read_picture
from sd_scratch.training.pixels.images import DataSet, LabelledImages

TABLE = "labels.csv"
TEST_EVERY = 10  # one picture in so many is kept for tests
SEPARATORS = (",", ";", "\t")
MAX_CLASSES = 1000
MAX_TABLE = 64_000_000  # bytes
LISTED = 10  # broken files that are named one by one


def read_pictures(folder: Path, side: int) -> LabelledImages:
    """All readable pictures of a folder as RGB ``[N, 3, side, side]``; classes in alphabetical order.

    Files that are missing or no pictures are listed and left out. Raises `ScratchError` when the table
    is missing or malformed, gives a picture two labels, or no picture is left.
    """
    images, broken = [], []
    labels: list[str] = []
    label_of: dict[Path, str] = {}
    for name, label in _read_table(folder / TABLE):
        try:
            path = _find(folder, name)
            images.append(_read_picture(path, side))
        except ScratchError as error:
            broken.append(f"{name} ({str(error).removeprefix(f'{folder / name} - ')})")
            continue
        labels.append(label_of.setdefault(path.resolve(), label))
        if labels[-1] != label:
            raise ScratchError(
                f"{folder / TABLE} - {name} has two labels, {labels[-1]} and {label} - leave one"
            )
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


def split(data: LabelledImages) -> DataSet:
    """Most pictures to train on, one in ten to test with. Raises `ScratchError` for too few."""
    if len(data) < TEST_EVERY:
        raise ScratchError(
            f"{data.source} - only {len(data)} pictures - give at least {TEST_EVERY}"
        )
    kept = kept_for_tests(data.labels)
    if not kept.any():
        raise ScratchError(
            f"{data.source} - every class has one picture alone, and none can be kept for tests"
            " - give more"
        )
    return DataSet(data.rows((~kept).nonzero()[:, 0]), data.rows(kept.nonzero()[:, 0]))


def kept_for_tests(labels: Tensor) -> Tensor:
    """Which pictures are kept for tests ``[N]``: one in ten of every class, wherever they stand in
    the table. No class gives its last picture."""
    left = labels.bincount()
    kept = torch.zeros(len(labels), dtype=torch.bool)
    waiting = 0
    for row in labels.argsort(stable=True).tolist():
        waiting += 1
        if waiting >= TEST_EVERY and left[labels[row]] > 1:
            kept[row], waiting = True, 0
            left[labels[row]] -= 1
    return kept


def _read_table(path: Path) -> list[tuple[str, str]]:
    """The rows (file, label) of the table, in order."""
    try:
        lines = list(io.StringIO(_read_text(path), newline=""))
        first, separator = 0, max(SEPARATORS, key=lines[0].count) if lines else SEPARATORS[0]
        if lines and lines[0].lower().startswith("sep="):  # a hint that Excel writes and reads
            first, separator = 1, lines[0][len("sep=") :].rstrip("\r\n")
        rows = list(
            csv.reader(lines[first:], delimiter=separator, skipinitialspace=True, strict=True)
        )
    except (TypeError, csv.Error) as error:
        raise ScratchError(f"{path} - cannot be read as a table: {error}") from None
    names = [name.strip().lower() for name in rows[0]] if rows else []
    if (names.count("file"), names.count("label")) != (1, 1):
        raise ScratchError(f"{path} - its first line must name the columns file,label, each once")
    file, label = names.index("file"), names.index("label")
    table = []
    for number, row in enumerate(rows[1:], first + 2):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue  # spreadsheets end with such lines
        if len(cells) <= max(file, label) or not cells[file] or not cells[label]:
            raise ScratchError(f"{path} - line {number} lacks a file or a label")
        if any(cells[len(names) :]):
            raise ScratchError(
                f"{path} - line {number} has more cells than the first line - put a label with separators into quotes"
            )
        name = unicodedata.normalize("NFC", " ".join(cells[label].split()))
        if not name.isprintable() or len(cells[label].splitlines()) > 1:
            raise ScratchError(
                f"{path} - line {number}: its label has characters that nobody can see, or several lines"
            )
        table.append((cells[file], name))
    if not table:
        raise ScratchError(f"{path} - names no picture - give one line for each: file,label")
    return table


def _read_text(path: Path) -> str:
    if not path.exists():
        raise ScratchError(
            f"{path} - no such file - write one: a line file,label, then one line per picture"
        )
    data = read_file(path, MAX_TABLE)
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ScratchError(f"{path} - not UTF-8 text - save it again, as CSV in UTF-8")
    return text


def _find(folder: Path, name: str) -> Path:
    """The file that a row names, as it is spelt here or on Windows or a Mac. Raises `ScratchError` for one
    outside of the folder, by its name or by a link."""
    if not at_home(folder / name).exists():
        name = name.replace("\\", "/")
        forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
        name = next((form for form in forms if (folder / form).exists()), name)
    path = PurePath(name)
    named_outside = path.is_absolute() or PureWindowsPath(name).anchor or ".." in path.parts
    if named_outside or not (folder / path).resolve().is_relative_to(folder.resolve()):
        raise ScratchError("outside of the folder")
    return folder / path


def _read_picture(path: Path, side: int) -> Tensor:
    square = ImageOps.fit(read_picture(path), (side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)
