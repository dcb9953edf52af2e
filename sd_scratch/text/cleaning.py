"""A prompt as CLIP reads it: repaired, unescaped, in lower case, with every character traced back.

OpenAI cleaned the captions that CLIP was trained on (https://github.com/openai/CLIP,
``simple_tokenizer.py``): ftfy repairs broken Unicode and typographic characters, HTML entities are
unescaped twice, everything becomes lower case. transformers 5 only composes characters (NFC) and lowers. Both
are supported, and both trace each character of the result to the original.

Collapsing white space, which both also do, is left out: no token holds any.
"""

import functools
import html
import unicodedata
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sd_scratch.errors import UsageError

STYLES = ("openai", "transformers")
TEXT_LIMIT = 64 * 1024  # bytes of UTF-8; the longest prompt that fits the model has well under 1 kB

# C0 and DEL, without what counts as white space. The C1 range stays: it is a part of broken
# characters that ftfy can still repair.
CONTROLS = dict.fromkeys((*range(1, 9), *range(14, 32), 127), " ")
NEARBY = 16  # characters around the middle at which a changed stretch may be cut in two

Span = tuple[int, int]


class Cleaned(NamedTuple):
    """A cleaned text, and for each of its characters the half-open span of the original behind it."""

    text: str
    spans: list[Span]


def check_text(text: str) -> None:
    """Refuse a text that no tokenizer can read.

    Raises ScratchError (bad usage) for more than 64 KB, a NUL, or a lone half of a surrogate pair.
    """
    if not isinstance(text, str):
        raise UsageError(f"text: give a text to encode, not {type(text).__name__}")
    if "\0" in text:
        raise UsageError("the prompt holds a NUL character - remove it")
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the prompt holds half a character (U+{ord(text[error.start]):04X} at position "
            f"{error.start}), as text cut in the middle of an emoji does - remove it"
        ) from None
    if size > TEXT_LIMIT:
        raise UsageError(f"the prompt has {size:,} bytes, the limit is {TEXT_LIMIT:,} - shorten it")


def blank_controls(text: str) -> str:
    """The text with a space for each control character, of the same length."""
    return text.translate(CONTROLS)


def clean(text: str, style: str, offset: int = 0) -> Cleaned:
    """Clean a text in one of the `STYLES`; `offset` is where it starts in the original."""
    change = _repair if style == "openai" else _compose
    cleaned = Cleaned("", [])
    parts: list[str] = []
    for part, start, end in _changes(text, offset, change):
        parts.append(part)
        # An unchanged stretch maps character by character; a changed one covers the whole of it.
        unchanged = part == text[start - offset : end - offset]
        cleaned.spans.extend(
            [(at, at + 1) for at in range(start, end)] if unchanged else [(start, end)] * len(part)
        )
    return _lower(Cleaned("".join(parts), cleaned.spans), style)


def _repair(text: str) -> str:
    if text.isascii() and "&" not in text:
        return text  # nothing that ftfy would touch, and its import takes a quarter of a second
    import ftfy

    fixed: str = ftfy.fix_text(text)
    return html.unescape(html.unescape(fixed))


_compose = functools.partial(unicodedata.normalize, "NFC")


def _lower(cleaned: Cleaned, style: str) -> Cleaned:
    """Lower case, which makes some characters two. A final sigma depends on its neighbours in OpenAI's way,
    which lowers whole texts, and not in transformers', which lowers characters."""
    lowered = [char.lower() for char in cleaned.text]
    text = cleaned.text.lower() if style == "openai" else "".join(lowered)
    spans = [span for char, span in zip(lowered, cleaned.spans, strict=True) for _ in char]
    return Cleaned(text, spans)


def _changes(
    text: str, start: int, change: Callable[[str], str], changed: str | None = None
) -> Iterator[tuple[str, int, int]]:
    """Yield ``(changed part, start, end)``, in order and gapless, in parts as small as possible.

    A text is cut in two wherever changing the halves gives the same as changing the whole, so the result is
    right for any `change`; a text that cannot be cut stays one part.
    """
    changed = change(text) if changed is None else changed
    cut = None if changed == text else _cut(text, changed, change)
    if cut is None:
        yield changed, start, start + len(text)
        return
    at, left = cut
    yield from _changes(text[:at], start, change, left)
    yield from _changes(text[at:], start + at, change, changed[len(left) :])


def _cut(text: str, changed: str, change: Callable[[str], str]) -> tuple[int, str] | None:
    """Where to cut the text, near its middle and preferably beside white space, and the changed left.

    Never between a letter and its accents.
    """
    middle = len(text) // 2
    nearby = range(max(1, middle - NEARBY), min(len(text), middle + NEARBY + 1))
    places = [at for at in nearby if not unicodedata.combining(text[at])]
    for at in sorted(places, key=lambda at: (not text[at].isspace(), abs(at - middle))):
        left = change(text[:at])
        if changed.startswith(left) and left + change(text[at:]) == changed:
            return at, left
    return None
