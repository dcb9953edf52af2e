"""JSON from strangers: parsed strictly, and read key by key with every value checked.

Python's own parser lets through what no configuration should hold: duplicate keys, NaN, `true` where a
number is meant, and nesting deep enough to exhaust the stack.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from sd_scratch.errors import ScratchError
from sd_scratch.files import read_file

CONFIG_LIMIT = 1 << 20  # bytes; the largest real configuration is some 5 kB


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `text`; `where` names the file in errors.

    Raises ScratchError for anything but one well-formed object: duplicate keys, nesting that exhausts
    the stack, another top-level type, bytes that are not UTF-8. NaN and infinities pass, because
    diffusers writes them for some schedulers; `Fields` refuses them where a value is read.
    """

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise ValueError(f"the key {_short(key)} appears twice")
            result[key] = value
        return result

    try:
        data = json.loads(text.decode("utf-8"), object_pairs_hook=no_duplicates)
    except UnicodeDecodeError:
        raise ScratchError(f"{where} - not UTF-8 text - download it again") from None
    except RecursionError:
        raise ScratchError(f"{where} - nested too deeply - download the file again") from None
    except ValueError as error:
        reason = str(error).splitlines()[0][:120]
        raise ScratchError(f"{where} - not valid JSON ({reason}) - download it again") from None
    if not isinstance(data, dict):
        raise ScratchError(f"{where} - holds a JSON {type(data).__name__}, not an object")
    return data


def read_json(path: Path, limit: int = CONFIG_LIMIT) -> dict[str, Any]:
    """The JSON object in a file of at most `limit` bytes."""
    return parse_json(read_file(path, limit), str(path))


class Fields:
    """The values of one JSON object, each read with its type and range checked.

    A key that is absent gives the default; without a default, and for any value that does not fit, a
    ScratchError names the file, the key and what was expected.
    """

    def __init__(self, data: dict[str, Any], where: str, warnings: list[str] | None = None) -> None:
        self.data = data
        self.where = where
        self.warnings: list[str] = [] if warnings is None else warnings
        self.lacks: list[str] = []

    def warn(self, key: str, consequence: str) -> None:
        """Note what a value asks for and does not get; nested objects share the list `warnings`."""
        self.warnings.append(f"{self.where} - `{key}`: {_short(self.data[key])} {consequence}")

    def lack(self, key: str, consequence: str) -> None:
        """The same for what changes pictures; `lacks` keeps the lines that this object's values caused."""
        self.warn(key, consequence)
        self.lacks.append(self.warnings[-1])

    def spread(self, levels: int, *keys: str) -> "Fields":
        """The same with a list of `levels` equal values as that value, for these keys."""
        data = dict(self.data)
        for key in keys:
            value = data.get(key)
            if value and isinstance(value, list) and value == value[:1] * levels:
                data[key] = value[0]
        return Fields(data, self.where, self.warnings)

    def fail(self, key: str, expected: str) -> NoReturn:
        found = _short(self.data[key]) if key in self.data else "nothing"
        raise ScratchError(f"{self.where} - `{key}` must be {expected}, found {found}")

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value: Any = self.data.get(key, default)
        if not _is_integer(value) or not low <= value <= high:
            self.fail(key, f"an integer from {low} to {high}")
        return int(value)

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value: Any = self.data.get(key, default)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:  # NaN and infinities are in no range
            self.fail(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.data.get(key, default)
        if not isinstance(value, bool):
            self.fail(key, "true or false")
        return value

    def choice(self, key: str, allowed: Sequence[str], default: str | None = None) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str) or value not in allowed:
            self.fail(key, "one of " + ", ".join(allowed))
        return value

    def words(self, key: str) -> str:
        """Any text."""
        value = self.data.get(key)
        if not isinstance(value, str):
            self.fail(key, "a text")
        return value

    def text(self, key: str, pattern: str, default: str) -> str:
        """A string that the regular expression `pattern` matches whole."""
        value = self.data.get(key, default)
        if not isinstance(value, str) or not (value == default or re.fullmatch(pattern, value)):
            self.fail(key, f"text that matches {pattern}")
        return value

    def integers(
        self, key: str, low: int, high: int, longest: int, default: Sequence[int] | None = None
    ) -> tuple[int, ...]:
        value: Any = self.data.get(key, default)
        fits = isinstance(value, (list, tuple)) and 1 <= len(value) <= longest
        if not fits or not all(_is_integer(v) and low <= v <= high for v in value):
            self.fail(key, f"a list of 1 to {longest} integers from {low} to {high}")
        return tuple(value)

    def numbers(self, key: str, low: float, high: float, longest: int) -> tuple[float, ...]:
        values: Any = self.data.get(key)
        if not isinstance(values, (list, tuple)) or not 1 <= len(values) <= longest:
            self.fail(key, f"a list of 1 to {longest} numbers from {low:g} to {high:g}")
        each = [Fields({key: value}, self.where).number(key, low, high) for value in values]
        return tuple(each)

    def strings(self, key: str, allowed: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
        value = self.data.get(key, default)
        if not isinstance(value, (list, tuple)) or not all(v in allowed for v in value):
            self.fail(key, "a list of " + " and ".join(allowed))
        return tuple(value)

    def nested(self, key: str) -> "Fields":
        """A nested object; empty when the key is absent."""
        value = self.data.get(key, {})
        if not isinstance(value, dict):
            self.fail(key, "an object")
        return Fields(value, f"{self.where} - `{key}`", self.warnings)

    def only(self, key: str, *allowed: object) -> None:
        """Refuse any value but `allowed`: the networks here can express no other."""
        if key not in self.data:
            return
        value = self.data[key]
        if not any(type(value) is type(a) and value == a for a in allowed):
            raise ScratchError(
                f"{self.where} - `{key}`: {_short(value)} describes a network that is not"
                " Stable Diffusion 1.x or 2.x - only such networks can be loaded"
            )


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
