"""The prompt's syntax: weights in brackets, BREAK, and tags.

There are three ways of reading a prompt, `SYNTAXES`. Every remaining character keeps its place in the typed
text.

- ``"a1111"``, AUTOMATIC1111's: ``(a)`` weighs 1.1, ``[a]`` 1/1.1, ``(a:1.3)`` 1.3; nested weights
  multiply; ``BREAK`` begins a new chunk of tokens; ``\\(`` is a bracket and nothing more. A bracket that
  is never closed weighs all that follows, one that was never opened is text.
- ``"comfy"``, ComfyUI's: only round brackets, and a number is the weight, whatever is around it.
- ``"plain"``, diffusers': every character is text.
"""

import math
import re
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from sd_scratch.errors import UsageError
from sd_scratch.text.cleaning import Cleaned

SYNTAXES = ("a1111", "comfy", "plain")

ROUND = 1.1  # what a pair of brackets without a number multiplies by
LARGEST_WEIGHT = 1e4
DEEPEST = 100  # brackets within brackets

MARK = re.compile(
    r"\\(?P<escaped>[()\[\]\\])|\\|(?P<open>[(\[])|:\s*(?P<number>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)"
    r"|(?P<close>[)\]])|(?P<text>[^\\()\[\]:]+|:)"
)
BREAK = re.compile(r"\s*\bBREAK\b\s*")
AND = re.compile(r"\bAND\b")
NETWORK = re.compile(r"<(\w+):([^<>]+)>")
OPENED_BY = {")": "(", "]": "["}
SHOWN = 12  # characters of a prompt in a message


class Piece(NamedTuple):
    """A part of a prompt with one weight."""

    text: Cleaned
    weight: float


class Reading(NamedTuple):
    """A prompt, read: a section of pieces for each part between BREAKs.

    `networks` are its ``<kind:name:weight>`` tags, as typed; `notes` are sentences for the user.
    """

    sections: list[list[Piece]]
    networks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class _Part(NamedTuple):
    start: int
    end: int
    weight: float
    is_break: bool = False


def whole(text: str) -> Cleaned:
    """A text without tags."""
    return Cleaned(text, [(i, i + 1) for i in range(len(text))])


def part_of(text: Cleaned, start: int, end: int) -> Cleaned:
    return Cleaned(text.text[start:end], text.spans[start:end])


def join(parts: Sequence[Cleaned]) -> Cleaned:
    return Cleaned("".join(p.text for p in parts), [span for p in parts for span in p.spans])


def read(text: Cleaned, syntax: str) -> Reading:
    """Read a prompt in one of the `SYNTAXES`.

    Raises:
        UsageError: an unknown syntax, ``AND``, brackets nested deeper than 100, or a weight beyond
            1e4.
    """
    if syntax == "plain":
        return Reading([[Piece(text, 1.0)]])
    if syntax == "comfy":
        pieces = _merge(_comfy(text, 1.0, 0))
        return Reading([pieces or [Piece(text, 1.0)]], notes=_comfy_notes(text))
    if syntax != "a1111":
        raise UsageError(f"unknown prompt syntax '{syntax}' - use {', '.join(SYNTAXES)}")
    if found := AND.search(text.text):
        raise UsageError(
            f"AND at character {text.spans[found.start()][0] + 1} of the prompt joins two prompts into"
            " one picture, which is not done here - write 'and' for the word, or read the prompt as plain text"
        )
    text, networks = without_networks(text)
    return _a1111(text, networks)


def without_networks(text: Cleaned) -> tuple[Cleaned, tuple[str, ...]]:
    """The text without its ``<lora:name:weight>`` and the like, and those, as typed."""
    found = list(NETWORK.finditer(text.text))
    edges = [0, *(edge for match in found for edge in match.span()), len(text.text)]
    kept = [part_of(text, *edges[i : i + 2]) for i in range(0, len(edges), 2)]
    return join(kept), tuple(match.group() for match in found)


def _a1111(text: Cleaned, networks: tuple[str, ...]) -> Reading:
    parts: list[_Part] = []
    opened: list[tuple[str, int, int]] = []  # the bracket, its first part, where it stands
    notes: list[str] = []

    def weigh(first: int, factor: float) -> None:
        parts[first:] = [p._replace(weight=p.weight * factor) for p in parts[first:]]

    def close(bracket: str) -> int | None:
        """The first part inside the last such open bracket."""
        for i in range(len(opened) - 1, -1, -1):
            if opened[i][0] == bracket:
                return opened.pop(i)[1]
        return None

    for match in MARK.finditer(text.text):
        start, end = match.span()
        if match["escaped"]:
            parts.append(_Part(start + 1, end, 1.0))
        elif match["open"]:
            opened.append((match["open"], len(parts), start))
            if len(opened) > DEEPEST:
                raise UsageError(f"brackets in the prompt are nested more than {DEEPEST} deep")
        elif match["number"] and (first := close("(")) is not None:
            weigh(first, _weight(match["number"]))
        elif match["close"] and (first := close(OPENED_BY[match["close"]])) is not None:
            weigh(first, ROUND if match["close"] == ")" else 1 / ROUND)
        elif match["close"] or match["number"] or match["text"]:
            if not match["text"]:
                notes.append(_closes_nothing(text, end - 1))
            found = _split_at_breaks(text.text, start, end)
            parts += found
            if opened and (marks := [part for part in found if part.is_break]):
                notes.append(
                    f"the BREAK before {place(text, min(marks[0].end, len(text.text) - 1))} stands in brackets:"
                    " it begins a chunk, unlike in A1111, where it is a word"
                )
    for bracket in "([":
        for _, first, _at in [each for each in opened if each[0] == bracket]:
            weigh(first, ROUND if bracket == "(" else 1 / ROUND)
    notes += [
        f"the '{bracket}' at {place(text, at)} is never closed: all that follows weighs"
        f" {'more' if bracket == '(' else 'less'}, as in A1111 - write \\{bracket} for the sign itself"
        for bracket, _, at in opened
    ]
    return Reading(_sections(text, parts), networks, tuple(notes[:1]))


def _split_at_breaks(text: str, start: int, end: int) -> list[_Part]:
    """A stretch of text as parts, with a part for each BREAK in it."""
    parts = []
    for match in BREAK.finditer(text, start, end):
        parts += [_Part(start, match.start(), 1.0), _Part(*match.span(), 1.0, True)]
        start = match.end()
    return [*parts, _Part(start, end, 1.0)]


def _sections(text: Cleaned, parts: list[_Part]) -> list[list[Piece]]:
    sections: list[list[Piece]] = [[]]
    for part in parts:
        if part.is_break:
            sections.append([])
        elif part.start < part.end:
            piece = part_of(text, part.start, part.end)
            if text.text[part.start - 1 : part.start] == "\\" and part.end - part.start == 1:
                # A bracket with its backslash: both stand for it.
                piece = piece._replace(spans=[(text.spans[part.start - 1][0], piece.spans[0][1])])
            sections[-1].append(Piece(piece, part.weight))
    return [_merge(section) for section in sections]


def _merge(pieces: list[Piece]) -> list[Piece]:
    """Neighbours of one weight are one piece: "(un)(necessary)" is one word."""
    groups = groupby(pieces, key=lambda piece: piece.weight)
    return [Piece(join([piece.text for piece in group]), weight) for weight, group in groups]


def _comfy(text: Cleaned, weight: float, depth: int) -> list[Piece]:
    """ComfyUI's reading: the outermost groups first, then the content of each."""
    if depth > DEEPEST:
        raise UsageError(f"brackets in the prompt are nested more than {DEEPEST} deep")
    pieces: list[Piece] = []
    level, start = 0, 0
    for match in re.finditer(r"\\[()]|[()]", text.text):
        if match.group() == "(":
            if level == 0:
                pieces.append(Piece(_unescape(part_of(text, start, match.start())), weight))
                start = match.start()
            level += 1
        elif match.group() == ")":
            level -= 1
            if level == 0:
                inside, own = _comfy_weight(part_of(text, start + 1, match.start()), weight)
                pieces += _comfy(inside, own, depth + 1)
                start = match.end()
    pieces.append(Piece(_unescape(part_of(text, start, len(text.text))), weight))
    return [piece for piece in pieces if piece.text.text]


def _comfy_notes(text: Cleaned) -> tuple[str, ...]:
    opened: list[int] = []
    for match in re.finditer(r"\\[()]|[()]", text.text):
        if match.group() == "(":
            opened.append(match.start())
        elif match.group() == ")":
            if not opened:
                return (_closes_nothing(text, match.start()),)
            opened.pop()
    if not opened:
        return ()
    return (f"the '(' at {place(text, opened[0])} is never closed: text, as in ComfyUI",)


def _comfy_weight(inside: Cleaned, weight: float) -> tuple[Cleaned, float]:
    before, colon, number = inside.text.rpartition(":")
    if before and colon and re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*", number):
        return part_of(inside, 0, len(before)), _weight(number)
    return inside, weight * ROUND


def _unescape(text: Cleaned) -> Cleaned:
    """Without the backslashes before round brackets."""
    parts, start = [], 0
    for match in re.finditer(r"\\[()]", text.text):
        at = match.start()
        bracket = Cleaned(text.text[at + 1], [(text.spans[at][0], text.spans[at + 1][1])])
        parts += [part_of(text, start, at), bracket]
        start = match.end()
    return join([*parts, part_of(text, start, len(text.text))])


def _weight(number: str) -> float:
    weight = float(number)
    if not math.isfinite(weight) or abs(weight) > LARGEST_WEIGHT:
        raise UsageError(
            f"the weight {number.strip()[:SHOWN]} in the prompt is beyond {LARGEST_WEIGHT:g} - weights of"
            " words are about 1, such as 1.3 or 0.7"
        )
    return weight


def _closes_nothing(text: Cleaned, at: int) -> str:
    return f"the '{text.text[at]}' at {place(text, at)} closes nothing: text"


def place(text: Cleaned, at: int) -> str:
    """Where a character stands, for messages."""
    return f"character {text.spans[at][0] + 1} of the prompt ('{text.text[at : at + SHOWN]}')"
