"""The line of settings that A1111 writes below a prompt, ``Steps: 20, Sampler: Euler a, ...``, as a table.

The text is untrusted: every value's type and range is checked as it is taken out.
"""

import contextlib
import json
import re
from typing import NoReturn

from sd_scratch.errors import ScratchError
from sd_scratch.limits import SIDE, read_integer, read_number

# Why settings whose names begin so are not repeated.
WHY = {
    "ADetailer": "no part of a finished picture is found and painted again here",
    "Civitai": "a picture chooses no file",
    "ControlNet": "a picture chooses no file",
    "Hypernet": "there are no hypernetworks here",
    "Inpaint": "a picture chooses no mask",
    "Mask": "a picture chooses no mask",
    "Refiner": "one model makes a picture here",
}


class SettingsLine:
    """A line of settings; values are taken out, checked, and the rest is `left`.

    Attributes:
        where: the file, for errors.
        why: why some of the rest is not repeated.
    """

    def __init__(self, line: str, where: str) -> None:
        self.left = _split(line)
        self.where = where
        self.why: dict[str, str] = {}

    def take(self, key: str) -> str | None:
        return self.left.pop(key, None)

    def keep(self, key: str, value: str, why: str) -> None:
        """Leave a setting with this value, and say why it is not repeated."""
        self.left[key], self.why[key] = value, why

    def was_written_by(self, tool: str) -> bool:
        return self.left.get("Version", "").startswith(tool)

    @property
    def version(self) -> tuple[int, int] | None:
        """A1111's version, with a v since 1.3, also as part of Forge's; None for other tools."""
        found = re.match(r"(?:f[\d.]+-?)?v(\d+)\.(\d+)", self.left.get("Version", ""))
        return None if found is None else (int(found[1]), int(found[2]))

    def integer(self, key: str, low: int, high: int) -> int | None:
        value = self.take(key)
        return None if value is None else self._integer(key, value, low, high)

    def number(self, key: str, low: float, high: float) -> float | None:
        text = self.take(key)
        if text is None:
            return None
        value = read_number(text)
        if value is None or not low <= value <= high:
            self._fail(key, text, f"a number from {low:g} to {high:g}")
        return value

    def size(self, key: str, low: int = SIDE[0]) -> tuple[int, int] | None:
        """``512x768``."""
        text = self.take(key)
        if text is None:
            return None
        width, _, height = text.partition("x")
        return self._integer(key, width, low, SIDE[1]), self._integer(key, height, low, SIDE[1])

    def unread(self) -> tuple[str, ...]:
        """The names of the rest, each with the reason if known; groups once."""
        said: dict[str, None] = {}
        for key in self.left:
            group = next((start for start in WHY if key.startswith(start)), key)
            why = self.why.get(key) or WHY.get(group)
            said[f"{group} ({why})" if why else key] = None
        return tuple(said)

    def _integer(self, key: str, text: str, low: int, high: int) -> int:
        value = read_integer(text)
        if value is None or not low <= value <= high:
            self._fail(key, text, f"an integer from {low} to {high}")
        return value

    def _fail(self, key: str, text: str, expected: str) -> NoReturn:
        raise ScratchError(f"{self.where} - '{key}' must be {expected}, found {text[:40]!r}")


def _split(line: str, nested: bool = True) -> dict[str, str]:
    """``Steps: 20, Sampler: Euler a, Lora hashes: "a: 1, b: 2"`` to a table; the first of a name wins.
    Text between quotes is one value, and so is text between closed braces and brackets."""
    parts, start, quoted, depth = [], 0, False, 0
    for i, char in enumerate(line):
        if char == '"' and line[i - 1 : i] != "\\":
            quoted = not quoted
        elif quoted:
            continue
        elif nested and char in "{[":
            depth += 1
        elif nested and char in "}]":
            depth = max(depth - 1, 0)
        elif char == "," and not depth:
            parts.append(line[start:i])
            start = i + 1
    if depth:
        return _split(line, nested=False)
    parts.append(line[start:])
    settings: dict[str, str] = {}
    for part in parts:
        key, _, value = part.partition(":")
        if value.strip():
            settings.setdefault(key.strip(), _unquoted(value.strip()))
    return settings


def _unquoted(value: str) -> str:
    """A value that A1111 quoted for its commas, colons or line ends."""
    with contextlib.suppress(ValueError):
        text = json.loads(value) if value.startswith('"') else value
        return text if isinstance(text, str) else value
    return value
