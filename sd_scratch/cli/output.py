"""Where pictures go: a file, a template of file names, or standard output."""

import logging
import re
import string
import sys
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.files import check_target, write_file, write_numbered

log = logging.getLogger(__name__)

DEFAULT = "out/{seed}-{index:04}.png"
FIELDS = ("seed", "index", "prompt", "model", "sampler", "steps", "cfg", "width", "height")
FORMAT = re.compile(r"0?[0-9]{0,2}")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # by Windows
LONGEST_NAME = 80

Values = Mapping[str, object]


class Output:
    """Checks ``-o`` before anything is computed, then writes one picture after the other.

    A plain name is one file, which must not exist (or `overwrite`). A template such as
    ``out/{seed}-{index:04}.png`` takes the first free number; without ``{index}`` one is appended
    where the name is taken.
    """

    def __init__(self, target: str | None, *, pictures: int = 1, overwrite: bool = False) -> None:
        self.template = DEFAULT if target is None else target
        self.overwrite = overwrite
        self.written = 0
        self.to_stdout = target == "-"
        if self.to_stdout:
            self._check_stdout(pictures)
            return
        self.parts = _parse(self.template)
        self.numbered = any(name == "index" for _, name, _ in self.parts)
        self.single = all(name is None for _, name, _ in self.parts)
        if self.single:  # with {{ and }} read as braces
            self.template = "".join(text for text, _, _ in self.parts)
        if self.single and pictures > 1:
            stem = self.template.removesuffix(".png")
            raise UsageError(
                f"-o {self.template} names one file for {pictures} pictures - "
                f"use a template such as -o '{stem}-{{index}}.png'",
            )

    def check(self) -> None:
        """Refuse, before anything is computed, what could not be written afterwards."""
        if self.to_stdout:
            return
        path = Path(self.template) if self.single else Path(self.template).with_name("x.png")
        check_file(path, self.overwrite or not self.single)

    def save(self, data: bytes, values: Values) -> str:
        """Write one picture; returns its path as the user would type it, ``-`` for standard output."""
        if self.to_stdout:
            sys.stdout.buffer.write(data)
            return "-"
        if self.overwrite:
            path = next(self._names(values))
            write_file(path, data, overwrite=True)
        else:
            path = write_numbered(self._names(values), data)
            if self.single and path.name != Path(self.template).name:
                log.warning(f"{self.template} appeared in the meantime: this is {path}")
        self.written += 1
        return str(path)

    def _names(self, values: Values) -> Iterator[Path]:
        """The file names to try, in order; the first alone counts for a plain name."""
        start = self.written if self.overwrite else 0
        for index in count(start):
            name = "".join(
                literal
                if field is None
                else literal + _fill(field, spec, {**values, "index": index})
                for literal, field, spec in self.parts
            )
            path = Path(name)
            if not self.numbered and not self.overwrite and index > 0:
                path = path.with_name(f"{path.stem}-{index}{path.suffix}")
            yield path

    def _check_stdout(self, pictures: int) -> None:
        if pictures > 1:
            raise UsageError(f"-o - is one picture, not {pictures} - use a template")
        if sys.stdout.isatty():
            raise UsageError(
                "-o - would write a PNG to the terminal - send it to a file or a program",
            )


def check_file(path: Path, overwrite: bool) -> None:
    """Refuse a file that could not be written, or that exists and is not to be replaced."""
    check_target(path)
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists - nothing was made - give --overwrite, or another name")


def slug(text: str) -> str:
    """A text as a part of a file name: letters, digits, dot, dash and underscore, at most 80."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:LONGEST_NAME] or "picture"
    return f"_{name}" if RESERVED.fullmatch(name) else name


def _parse(template: str) -> list[tuple[str, str | None, str]]:
    """Literal text, field name and format of each part, or an error that says what is wrong."""

    def fail(reason: str) -> ScratchError:
        return UsageError(f"-o {template} - {reason}")

    if not template.lower().endswith(".png"):
        raise fail("pictures are written as PNG: end the name with .png")
    try:
        parts = [
            (text, name, spec or "") for text, name, spec, _ in string.Formatter().parse(template)
        ]
    except ValueError as error:
        raise fail(f"not a template: {error}") from None
    for _, name, spec in parts:
        if name is not None and name not in FIELDS:
            raise fail(f"unknown field {{{name}}}: there is {', '.join(FIELDS)}")
        if not FORMAT.fullmatch(spec):
            raise fail(f"unknown format :{spec}: a width such as {{index:04}} is all there is")
    if "{" in str(Path(template).parent):
        raise fail("fields belong into the file's name, not its folder's")
    return parts


def _fill(field: str, spec: str, values: Values) -> str:
    value = values[field]
    text = f"{value:{spec}}" if isinstance(value, int) else str(value)
    return slug(text)
