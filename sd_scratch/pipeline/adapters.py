"""The adapters of a recipe: by name and hash, never by path, in JSON and in A1111's texts."""

import math
import re
from typing import Any, NamedTuple, TypeVar, get_type_hints

from sd_scratch.errors import UsageError, log
from sd_scratch.json_file import Fields
from sd_scratch.limits import LORA_SCALE

TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>", re.IGNORECASE)
MAX_USES, MAX_NAME = 100, 200


class LoraUse(NamedTuple):
    """One LoRA of a picture. `name` is its file's without folder and ending; `scale` is for the U-Net,
    `text_scale` for the text encoder; `hash` as `sd_scratch.checkpoints.adapters` counts it, or ""."""

    name: str
    scale: float = 1.0
    text_scale: float = 1.0
    hash: str = ""

    @property
    def tag(self) -> str:
        return f"<lora:{self.name}:{self.text_scale:g}:{self.scale:g}>"

    @property
    def fits(self) -> bool:
        return all(_is_scale(scale) for scale in (self.scale, self.text_scale))


class EmbeddingUse(NamedTuple):
    """One textual inversion's file: its name without folder and ending, another token for its word or
    "", and its hash or ""."""

    name: str
    token: str = ""
    hash: str = ""

    @property
    def fits(self) -> bool:
        return len(self.token) <= MAX_NAME


class ControlUse(NamedTuple):
    """One ControlNet of a picture: its file's name without folder and ending, how it was used, and its
    hash or "". `canny` is LOW:HIGH if the hint is a picture's edges, else ""."""

    name: str
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    guess: bool = False
    pool: bool = False
    canny: str = ""
    hash: str = ""

    @property
    def fits(self) -> bool:
        edges = re.fullmatch(r"(\d+(\.\d+)?:\d+(\.\d+)?)?", self.canny)
        return _is_scale(self.strength) and 0 <= self.start <= self.end <= 1 and bool(edges)


def take_tags(prompt: str) -> tuple[str, tuple[LoraUse, ...]]:
    """A prompt without its ``<lora:name:text scale:U-Net scale>``, and what they ask for.

    As in A1111 one number is for both networks, and none means 1. Raises UsageError for another tag.
    """
    uses = tuple(_use(match) for match in TAG.finditer(prompt))
    return (TAG.sub("", prompt).strip() if uses else prompt), uses


def _use(match: re.Match[str]) -> LoraUse:
    name, *numbers = match[1].split(":")
    named: dict[str, float | None] = {"te": None, "unet": None}
    plain = []
    for number in numbers:
        key, equals, value = number.rpartition("=")
        if equals and key in named:
            named[key] = _number(value, match[0])
        elif equals:
            raise UsageError(f"{match[0][:80]} - {key[:20]}= is not known here: te= and unet= are")
        else:
            plain.append(_number(number, match[0]))
    if not name.strip() or len(plain) > 2:
        raise UsageError(f"{match[0][:80]} - write <lora:name:scale> or <lora:name:text:unet>")
    first = plain[0] if plain else named["te"]
    text = 1.0 if first is None else first
    second = plain[1] if len(plain) == 2 else named["unet"]
    return LoraUse(name.strip(), text if second is None else second, text)


def _number(text: str, tag: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not _is_scale(value):
        low, high = LORA_SCALE
        raise UsageError(f"{tag[:80]} - a scale is a number from {low:g} to {high:g}")
    return value


def _is_scale(value: float) -> bool:
    return LORA_SCALE[0] <= value <= LORA_SCALE[1]


def with_tags(prompt: str, loras: tuple[LoraUse, ...]) -> str:
    """The inverse of `take_tags`."""
    return " ".join([prompt, *(use.tag for use in loras)])


def show_hashes(uses: "tuple[LoraUse | EmbeddingUse, ...]") -> str | None:
    """A1111's ``name: hash, name: hash``; None without a known hash."""
    return ", ".join(f"{use.name}: {use.hash}" for use in uses if use.hash) or None


def with_hashes(loras: tuple[LoraUse, ...], hashes: str) -> tuple[LoraUse, ...]:
    """The inverse of `show_hashes`, for text that any program wrote; what does not fit is left out."""
    known = {use.name: use.hash for use in embeddings_in(hashes)}
    return tuple(use._replace(hash=known.get(use.name, "")) for use in loras)


def embeddings_in(hashes: str) -> tuple[EmbeddingUse, ...]:
    """What A1111's ``TI hashes`` name."""
    pairs = [part.rpartition(":") for part in hashes.strip('"').split(",")[:MAX_USES]]
    rows = [(name.strip()[:MAX_NAME], value.strip()) for name, colon, value in pairs if colon]
    return tuple(EmbeddingUse(name, "", _hash(value)) for name, value in dict(rows).items())


def compare_hashes(what: str, theirs: str | None, ours: str, file: str = "the file") -> None:
    """Warn where a picture was made with other weights than are used."""
    if theirs and theirs != ours:
        log.warning(
            f"the picture was made with {what} of hash {theirs}, and {file} has {ours}: it will differ"
        )


Use = TypeVar("Use", LoraUse, EmbeddingUse, ControlUse)


def uses_from_json(fields: Fields, key: str, kind: type[Use]) -> tuple[Use, ...]:
    """A stored recipe's list of lists of values, each of its type and within its range."""
    wanted, rows = f"a list of [{', '.join(kind._fields)}]", fields.data.get(key, [])
    types, uses = list(get_type_hints(kind).values()), []
    for row in rows if isinstance(rows, list) and len(rows) <= MAX_USES else [None]:
        if not isinstance(row, list) or [_type(value) for value in row] != types:
            fields.fail(key, wanted)
        use = kind(*(type_(value) for type_, value in zip(types, row, strict=True)))
        if not use.fits or len(use.name) > MAX_NAME or use.hash != _hash(use.hash):
            fields.fail(key, wanted)
        uses.append(use)
    return tuple(uses)


def _type(value: Any) -> type:
    """A value's type; whole numbers count as numbers."""
    return float if type(value) is int else type(value)


def _hash(text: str) -> str:
    return text if re.fullmatch(r"[0-9a-f]{1,64}", text) else ""
