"""Where pictures go: a file, a template of file names, or standard output."""

import os
import re
import secrets
import string
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

from sd_scratch.errors import ScratchError, UsageError, log
from sd_scratch.files import check_new_folder, check_target, write_file, write_numbered

DEFAULT = "out/{seed}-{index:04}.png"
FIELDS = ("seed", "index", "prompt", "model", "sampler", "steps", "cfg", "width", "height")
FORMAT = re.compile(r"0?(1?[0-9]|20)?")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # by Windows
LONGEST_NAME = 80
LENGTHS = (80, 40, 20, 10)  # of the texts in a name, the first that fits
ROOM = 240  # bytes of a name; most systems take 255, and a number may come after it

Values = Mapping[str, object]


class Output:
    """Checks ``-o`` before anything is computed, then writes one picture after the other.

    A plain name is one file, which must not exist (or `overwrite`). A template such as
    ``out/{seed}-{index:04}.png`` takes the first free number; without ``{index}`` one is appended
    where the name is taken, as it is to a plain `default`.
    """

    def __init__(
        self,
        target: str | None,
        *,
        pictures: int = 1,
        overwrite: bool = False,
        default: str = DEFAULT,
        fields: Sequence[str] = FIELDS,
        suffix: str = ".png",
    ) -> None:
        self.template = default if target is None else target
        self.overwrite = overwrite
        self.written = 0
        self.to_stdout = target == "-" and suffix != ".safetensors"
        if self.to_stdout:
            self._check_stdout(pictures)
            return
        self.parts = _parse(self.template, fields, suffix)
        self.numbered = any(name == "index" for _, name, _ in self.parts)
        plain = all(name is None for _, name, _ in self.parts)
        self.single = plain and target is not None
        if plain:  # with {{ and }} read as braces
            self.template = "".join(text for text, _, _ in self.parts)
        if self.single and pictures > 1:
            stem = self.template.removesuffix(suffix)
            raise UsageError(
                f"-o {self.template} names one file for {pictures} pictures - "
                f"use a template such as -o '{stem}-{{index}}{suffix}'"
            )

    def check(self) -> None:
        """Refuse, before anything is computed, what could not be written afterwards."""
        if self.to_stdout:
            return
        if self.single:
            check_file(Path(self.template), self.overwrite)
        else:
            check_target(Path(self.template).with_name(f".{secrets.token_hex(8)}.png"))

    def save(self, data: bytes | Iterable[bytes | memoryview], values: Values | None = None) -> str:
        """Write one picture, given whole or in pieces; returns its path as the user would type it, ``-`` for
        standard output."""
        if self.to_stdout:
            sys.stdout.buffer.writelines([data] if isinstance(data, bytes) else data)
            return "-"
        if self.overwrite:
            path = next(self._names(values or {}))
            if not self.single and (path.is_symlink() or path.is_dir()):  # which is not replaced
                return self._beside(path, data)
            write_file(path, data, overwrite=True)
        else:
            path = write_numbered(self._names(values or {}), data)
            if self.single and path.name != Path(self.template).name:
                log.warning(f"{self.template} appeared in the meantime: this is {path}")
        self.written += 1
        return str(path)

    def _beside(self, path: Path, data: bytes | Iterable[bytes | memoryview]) -> str:
        free = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(1))
        made = write_numbered(free, data)
        log.warning(f"{path} is no file that could be replaced: this is {made}")
        self.written += 1
        return str(made)

    def keep(self, data: bytes) -> None:
        """Write what has no values, and print its path."""
        path = self.save(data)
        if not self.to_stdout:
            print(path)

    def _names(self, values: Values) -> Iterator[Path]:
        """The file names to try, in order; the first alone counts for a plain name."""
        start = self.written if self.overwrite else 0
        for index in count(start):
            path = self._name({**values, "index": index})
            if not self.numbered and not self.overwrite and index > 0:
                path = path.with_name(f"{path.stem}-{index}{path.suffix}")
            yield path

    def _name(self, values: Values) -> Path:
        """The template filled in, its texts cut to the length at which a system takes the name."""
        path = Path(self.template)
        for length in LENGTHS:
            filled = (
                text if name is None else text + _fill(values[name], spec, length)
                for text, name, spec in self.parts
            )
            path = Path("".join(filled))
            if len(os.fsencode(path.name)) <= ROOM:
                break
        return path

    def _check_stdout(self, pictures: int) -> None:
        if pictures > 1:
            raise UsageError(f"-o - is one picture, not {pictures} - use a template")
        if getattr(sys.stdout, "name", "") == os.devnull:
            raise UsageError("-o - is standard output, which is closed - name a file")
        if sys.stdout.isatty():
            raise UsageError(
                "-o - would write a PNG to the terminal - send it to a file or a program"
            )


def check_file(path: Path, overwrite: bool) -> None:
    """Refuse a file that could not be written, or that exists and is not to be replaced."""
    check_target(path)
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists - nothing was made - give --overwrite, or another name")


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that could not be made, or that is there and not to be written into."""
    if overwrite and folder.is_dir() and not folder.is_symlink():
        check_target(folder / f".{secrets.token_hex(8)}")
    else:
        try:
            check_new_folder(folder)
        except UsageError as error:
            hint = ", or give --overwrite" if folder.is_dir() else ""
            raise UsageError(f"{error}{hint}") from None


def slug(text: str, length: int = LONGEST_NAME) -> str:
    """A text as a part of a file name: letters, digits, dot, dash and underscore, at most `length`."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:length] or "picture"
    return f"_{name}" if RESERVED.fullmatch(name) else name


def _parse(template: str, fields: Sequence[str], suffix: str) -> list[tuple[str, str | None, str]]:
    """Literal text, field name and format of each part, or an error that says what is wrong."""

    def fail(reason: str) -> ScratchError:
        return UsageError(f"{template} - {reason}")

    if not template.lower().endswith(suffix):
        kind = suffix[1:].upper()
        raise fail(f"what is made here is written as {kind}: end the name with {suffix}")
    if other := re.search(r"\[(?:seed|prompt|steps|cfg|width|height|index)\]|%0?\d*d", template):
        raise fail(
            f"{other[0]} would stand in the name as it is: write {{seed}}, {{index}} and the like"
        )
    try:
        parts = [
            (text, name, f"!{conversion}" if conversion else spec or "")
            for text, name, spec, conversion in string.Formatter().parse(template)
        ]
    except ValueError as error:
        raise fail(f"not a template: {error}") from None
    for _, name, spec in parts:
        if name is not None and name not in fields:
            raise fail(f"unknown field {{{name}}}: there is {', '.join(fields) or 'none'}")
        if not FORMAT.fullmatch(spec):
            raise fail(f"unknown format {spec}: a width such as {{index:04}} is all there is")
    if "{" in str(Path(template).parent):
        raise fail("fields belong into the file's name, not its folder's")
    shortest = "".join(text + LENGTHS[-1] * "x" * (name is not None) for text, name, _ in parts)
    if len(os.fsencode(Path(shortest).name)) > ROOM:
        raise fail(f"the name is too long: at most {ROOM} bytes")
    return parts


def _fill(value: object, spec: str, length: int) -> str:
    if isinstance(value, int):
        return slug(f"{value:{spec}}")
    return slug(str(value), length)
