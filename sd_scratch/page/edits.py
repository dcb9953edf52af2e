"""Edits as a page writes them: plain data, checked whole."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sd_scratch.errors import UsageError
from sd_scratch.json_file import Fields
from sd_scratch.pipeline.branches import COND, PICTURED, UNCOND
from sd_scratch.tensors import ReadyEdit
from sd_scratch.tensors.edits import ablate, add, reweight, scale, scale_word, set_to, swap
from sd_scratch.tensors.words import WordKey

TEXT_LIMIT = 2_000  # characters of a prompt
STEPS_LIMIT, EDITS_LIMIT = 150, 32
NUMBER_LIMIT = 1e6  # of a factor, and of a value that is added or set
BRANCHES = (COND, UNCOND, PICTURED)


@dataclass(frozen=True)
class EditWish:
    """One edit: where, what, and at which steps."""

    tensors: str
    edit: ReadyEdit
    steps: tuple[int, int] | None = None
    branch: str | None = None


def only(data: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    """Raise UsageError for an unknown key: no setting is dropped in silence."""
    for key in data:
        if key not in known:
            raise UsageError(f"{what} has no '{key[:40]}' - it has {', '.join(known)}")


def read_edit(fields: Fields) -> EditWish:
    """One edit of a message. Raises ScratchError."""
    kind = fields.choice("edit", tuple(EDITS))
    keys, make = EDITS[kind]
    only(fields.data, ("tensors", "edit", "steps", "branch", *keys), f"the edit {kind}")
    steps = None
    if fields.data.get("steps") is not None:
        first_last = fields.integers("steps", 0, 10 * STEPS_LIMIT, 2)
        if len(first_last) != 2 or first_last[0] > first_last[1]:
            fields.fail("steps", "the first and the last step")
        steps = (first_last[0], first_last[1])
    branch = None
    if fields.data.get("branch") is not None:
        branch = fields.choice("branch", BRANCHES)
    glob = fields.text("tensors", r"[\w.*?\[\]!-]{1,200}", "")
    if not glob:
        fields.fail("tensors", "a name, or a glob such as unet.*.attn2.probs")
    return EditWish(glob, make(fields), steps, branch)


def _factor(fields: Fields, key: str) -> float:
    return fields.number(key, -NUMBER_LIMIT, NUMBER_LIMIT)


def _ablate(fields: Fields) -> ReadyEdit:
    chosen: dict[str, Any] = {}
    for axis in ("heads", "channels"):
        if fields.data.get(axis) is not None:
            chosen[axis] = fields.integers(axis, 0, 100_000, 4096)
    if fields.data.get("words") is not None:
        chosen["words"] = _words(fields, "words")
    return ablate(**chosen, by=fields.choice("by", ("zero", "mean"), "zero"))


def _reweight(fields: Fields) -> ReadyEdit:
    words = _words(fields, "words")
    factors = fields.numbers("factors", -NUMBER_LIMIT, NUMBER_LIMIT, EDITS_LIMIT)
    if len(words) != len(factors):
        fields.fail("factors", "a number for each word")
    return reweight(
        dict(zip(words, factors, strict=True)), renormalise=fields.flag("renormalise", False)
    )


def _scale_word(fields: Fields) -> ReadyEdit:
    word = _word(fields, "word", fields.data.get("word"))
    text, nth = (word, None) if isinstance(word, str) else word
    origin = fields.choice("origin", ("zero", "empty"), "zero")
    return scale_word(text, _factor(fields, "factor"), nth=nth, origin=origin)


def _swap(fields: Fields) -> ReadyEdit:
    first, second = (_word(fields, key, fields.data.get(key)) for key in ("first", "second"))
    return swap(first, second)


def _word(fields: Fields, key: str, value: Any) -> WordKey:
    """``"cat"``, or ``["cat", 2]`` for the second one."""
    if isinstance(value, list) and len(value) == 2:
        text, nth = value
        whole = isinstance(nth, int) and not isinstance(nth, bool) and 1 <= nth <= TEXT_LIMIT
        if isinstance(text, str) and len(text) <= TEXT_LIMIT and whole:
            return text, nth
    if not isinstance(value, str) or len(value) > TEXT_LIMIT:
        fields.fail(key, 'a word such as "cat", or ["cat", 2] for the second one')
    return str(value)


def _words(fields: Fields, key: str) -> list[WordKey]:
    values = fields.data.get(key)
    if not isinstance(values, list) or not 1 <= len(values) <= EDITS_LIMIT:
        fields.fail(key, f"a list of 1 to {EDITS_LIMIT} words")
    return [_word(fields, key, value) for value in values or []]


EDITS: Mapping[str, tuple[tuple[str, ...], Callable[[Fields], ReadyEdit]]] = {
    "scale": (("factor",), lambda fields: scale(_factor(fields, "factor"))),
    "add": (("value",), lambda fields: add(_factor(fields, "value"))),
    "set": (("value",), lambda fields: set_to(_factor(fields, "value"))),
    "ablate": (("heads", "channels", "words", "by"), _ablate),
    "scale_word": (("word", "factor", "origin"), _scale_word),
    "reweight": (("words", "factors", "renormalise"), _reweight),
    "swap": (("first", "second"), _swap),
}
