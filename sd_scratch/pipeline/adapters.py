"""The adapters of a recipe: by name and hash, never by path, as JSON and as A1111's texts say them."""

import math
import re
from typing import Any, NamedTuple

from sd_scratch.errors import UsageError
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


class EmbeddingUse(NamedTuple):
    """One textual inversion's file: its name without folder and ending, another token for its word or
    "", and its hash or ""."""

    name: str
    token: str = ""
    hash: str = ""


class ControlUse(NamedTuple):
    """One ControlNet of a picture: its file's name without folder and ending, how it was used, and its
    hash or "". `canny` is LOW:HIGH where the hint is a picture's edges, else ""."""

    name: str
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    guess: bool = False
    pool: bool = False
    canny: str = ""
    hash: str = ""


def take_tags(prompt: str) -> tuple[str, tuple[LoraUse, ...]]:
    """A prompt without its ``<lora:name:text scale:U-Net scale>``, and what they ask for.

    As in A1111 one number is for both networks, and none is 1. Raises UsageError for a tag that says
    something else.
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
    low, high = LORA_SCALE
    if not low <= value <= high:
        raise UsageError(f"{tag[:80]} - a scale is a number from {low:g} to {high:g}")
    return value


def with_tags(prompt: str, loras: tuple[LoraUse, ...]) -> str:
    """The inverse of `take_tags`."""
    return " ".join([prompt, *(use.tag for use in loras)])


def show_hashes(uses: "tuple[LoraUse | EmbeddingUse, ...]") -> str | None:
    """A1111's ``name: hash, name: hash``; None where no hash is known."""
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


def loras_from_json(fields: Fields, value: Any) -> tuple[LoraUse, ...]:
    """Every LoRA of a stored recipe, its types and ranges checked."""
    rows = value if isinstance(value, list) and len(value) <= MAX_USES else [None]
    loras = []
    for row in rows:
        match row:
            case [str(name), scale, text_scale, str(digest)] if (
                _within(scale, LORA_SCALE)
                and _within(text_scale, LORA_SCALE)
                and len(name) <= MAX_NAME
            ):
                loras.append(LoraUse(name, float(scale), float(text_scale), _hash(digest)))
            case _:
                fields.fail("loras", "a list of [name, scale, text scale, hash]")
    return tuple(loras)


def embeddings_from_json(fields: Fields, value: Any) -> tuple[EmbeddingUse, ...]:
    """Every textual inversion of a stored recipe, checked."""
    rows = value if isinstance(value, list) and len(value) <= MAX_USES else [None]
    embeddings = []
    for row in rows:
        match row:
            case [str(name), str(token), str(digest)] if max(len(name), len(token)) <= MAX_NAME:
                embeddings.append(EmbeddingUse(name, token, _hash(digest)))
            case _:
                fields.fail("embeddings", "a list of [name, token, hash]")
    return tuple(embeddings)


def controls_from_json(fields: Fields, value: Any) -> tuple[ControlUse, ...]:
    """Every ControlNet of a stored recipe, checked."""
    rows = value if isinstance(value, list) and len(value) <= MAX_USES else [None]
    controls = []
    for row in rows:
        match row:
            case [
                str(name),
                strength,
                start,
                end,
                bool(guess),
                bool(pool),
                str(edges),
                str(digest),
            ] if (
                _within(strength, LORA_SCALE)
                and _within(start, (0, 1))
                and _within(end, (start, 1))
                and len(name) <= MAX_NAME
                and re.fullmatch(r"(\d+(\.\d+)?:\d+(\.\d+)?)?", edges)
            ):
                numbers = (float(strength), float(start), float(end))
                controls.append(ControlUse(name, *numbers, guess, pool, edges, _hash(digest)))
            case _:
                fields.fail("controls", "a list of [name, strength, start, end, ...]")
    return tuple(controls)


def _within(value: Any, limits: tuple[float, float]) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and limits[0] <= value <= limits[1]


def _hash(text: str) -> str:
    return text if re.fullmatch(r"[0-9a-f]{1,64}", text) else ""
