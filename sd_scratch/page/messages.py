"""What the page may ask for, as JSON from strangers: each message is checked whole before anything runs.

`docs/page.md` has the format. A message is an object with ``do``, what is wished for, and ``id``, a number
that comes back in every answer.
"""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.json_file import Fields, parse_json
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json
from sd_scratch.tensors import ReadyEdit
from sd_scratch.tensors.edits import ablate, add, reweight, scale, scale_word, set_to, swap
from sd_scratch.tensors.words import WordKey

FORMAT = 1
MESSAGE_LIMIT = 64_000  # bytes of one message
TEXT_LIMIT = 2_000  # characters of a prompt
STEPS_LIMIT, SIDE_LIMIT, GUIDANCE_LIMIT = 150, 1024, 1000.0
EDITS_LIMIT, PLACES_LIMIT, WATCH_LIMIT = 32, 16, 4
NUMBER_LIMIT = 1e6  # of a factor, and of a value that is added or set
LAST_ID = 2**53 - 1  # that JavaScript counts exactly

RECIPE_KEYS = (
    "prompt",
    "negative_prompt",
    "seed",
    "steps",
    "sampler",
    "sampler_options",
    "schedule",
    "guidance",
    "width",
    "height",
)
BRANCHES = ("cond", "uncond")


@dataclass(frozen=True)
class EditWish:
    """One edit: where, what, and at which steps."""

    tensors: str
    edit: ReadyEdit
    steps: tuple[int, int] | None = None
    branch: str | None = None


@dataclass(frozen=True)
class Place:
    """A place between prompts: in the plane of their principal components, or on the line of two."""

    prompts: tuple[str, ...]
    at: tuple[float, ...]


@dataclass(frozen=True)
class RunWish:
    """A picture. `plain` is what a link holds of it: recipe, edits and place as they came.

    `live` is a position on the way of a drag: it waits for the picture that is being made, in the
    place of an earlier one that waits. Any other wish ends what is being made. `watch` names tensors
    that are recorded, `previews` asks for x0 at every step.
    """

    recipe: Recipe
    edits: tuple[EditWish, ...] = ()
    place: Place | None = None
    watch: tuple[str, ...] = ()
    previews: bool = True
    live: bool = False
    plain: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorWish:
    """A tensor of the session's last run. `place` is the query whose row of self-attention is meant."""

    name: str
    step: int
    branch: str
    place: int | None = None


@dataclass(frozen=True)
class WordsWish:
    prompt: str


@dataclass(frozen=True)
class PlaneWish:
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class SaveWish:
    """The picture, or the tensors that were looked at."""

    what: str = "picture"


@dataclass(frozen=True)
class CancelWish:
    pass


Wish = RunWish | TensorWish | WordsWish | PlaneWish | SaveWish | CancelWish


class Refused(UsageError):
    """A message that is not obeyed; `number` is its id, as far as it had one."""

    def __init__(self, text: str, number: int | None = None) -> None:
        super().__init__(text)
        self.number = number


def read_message(text: str) -> tuple[int, Wish]:
    """A message's number and its wish. Raises Refused, with a sentence, for anything else."""
    if len(text.encode("utf-8", "surrogatepass")) > MESSAGE_LIMIT:
        raise Refused(f"the message has more than {MESSAGE_LIMIT:,} bytes - send a shorter one")
    number = None
    try:
        data = _object(text)
        fields = Fields(data, "message")
        number = fields.integer("id", 0, LAST_ID)
        kind = fields.choice("do", tuple(READERS))
        keys, read = READERS[kind]
        only(data, ("do", "id", *keys), f"a message that says {kind}")
        return number, read(fields)
    except ScratchError as error:
        raise Refused(str(error), number) from None


def _object(text: str) -> dict[str, Any]:
    try:
        return parse_json(text.encode(), "message")
    except UnicodeEncodeError:
        raise UsageError("the message holds half a character - send whole ones") from None
    except ScratchError as error:  # whose advice is about files
        raise UsageError(str(error).rpartition(" - ")[0] or str(error)) from None


def only(data: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    """Raise UsageError for a key that nobody reads: nothing that is said is dropped."""
    for key in data:
        if key not in known:
            raise UsageError(f"{what} has no '{key[:40]}' - it has {', '.join(known)}")


def _run(fields: Fields) -> RunWish:
    data = fields.data
    if not isinstance(data.get("recipe"), dict):
        fields.fail("recipe", "an object")
    place = None
    if data.get("place") is not None:
        place = _place(_inner(fields, "place"))
    return RunWish(
        recipe=_recipe(data["recipe"]),
        edits=tuple(_edit(Fields(each, "edit")) for each in _objects(fields, "edits", EDITS_LIMIT)),
        place=place,
        watch=_texts(fields, "watch", WATCH_LIMIT),
        previews=fields.flag("previews", True),
        live=fields.flag("live", False),
        plain={key: data[key] for key in ("recipe", "edits", "place") if data.get(key)},
    )


def _recipe(data: dict[str, Any]) -> Recipe:
    only(data, RECIPE_KEYS, "a recipe of the page")
    try:
        recipe = recipe_from_json(json.dumps(data), "recipe")
    except RecursionError:
        raise UsageError("recipe - nested too deeply") from None
    for text in (recipe.prompt, recipe.negative_prompt):
        _short(text)
    caps = (
        ("steps", recipe.steps, STEPS_LIMIT),
        ("width", recipe.width, SIDE_LIMIT),
        ("height", recipe.height, SIDE_LIMIT),
        ("guidance", abs(recipe.guidance or 0), GUIDANCE_LIMIT),
    )
    for name, value, limit in caps:
        if value is not None and value > limit:
            raise UsageError(f"{name} {value:g} - the page goes up to {limit:g}")
    # Only what changes nothing unless it is asked for: a run without a seed would be another one each time.
    return recipe if recipe.seed is not None else recipe.over(seed=0)


def _short(text: str) -> str:
    if len(text) > TEXT_LIMIT:
        raise UsageError(
            f"the prompt has {len(text):,} characters, and the page takes {TEXT_LIMIT:,} - shorten it"
        )
    return text


def _place(fields: Fields) -> Place:
    only(fields.data, ("prompts", "at"), "a place")
    prompts = _prompts(fields)
    at = fields.numbers("at", -NUMBER_LIMIT, NUMBER_LIMIT, 2)
    if len(at) != min(len(prompts) - 1, 2):
        fields.fail("at", "one number between two prompts, two numbers between more")
    return Place(prompts, at)


def _prompts(fields: Fields) -> tuple[str, ...]:
    prompts = tuple(_short(text) for text in _texts(fields, "prompts", PLACES_LIMIT))
    if len(set(prompts)) < max(len(prompts), 2):
        raise UsageError("a plane needs two prompts at least, and no two that are equal")
    return prompts


def _tensor(fields: Fields) -> TensorWish:
    return TensorWish(
        name=fields.text("name", r"[\w.]{1,200}", ""),
        step=fields.integer("step", 0, 10 * STEPS_LIMIT),
        branch=fields.choice("branch", ("", *BRANCHES), ""),
        place=None
        if fields.data.get("place") is None
        else fields.integer("place", 0, SIDE_LIMIT**2),
    )


def _edit(fields: Fields) -> EditWish:
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


def _inner(fields: Fields, key: str) -> Fields:
    value = fields.data.get(key)
    if not isinstance(value, dict):
        fields.fail(key, "an object")
    return Fields(value or {}, key)


def _objects(fields: Fields, key: str, longest: int) -> list[dict[str, Any]]:
    values = fields.data.get(key, [])
    if not isinstance(values, list) or len(values) > longest:
        fields.fail(key, f"a list of at most {longest} objects")
    if not all(isinstance(value, dict) for value in values):
        fields.fail(key, "a list of objects")
    return list(values)


def _texts(fields: Fields, key: str, longest: int) -> tuple[str, ...]:
    values = fields.data.get(key, [])
    if not isinstance(values, list) or len(values) > longest:
        fields.fail(key, f"a list of at most {longest} texts")
    if not all(isinstance(value, str) for value in values):
        fields.fail(key, "a list of texts")
    return tuple(values)


def _prompt(fields: Fields) -> WordsWish:
    value = fields.data.get("prompt")
    if not isinstance(value, str):
        fields.fail("prompt", "a text")
    return WordsWish(_short(str(value)))


EDITS: Mapping[str, tuple[tuple[str, ...], Callable[[Fields], ReadyEdit]]] = {
    "scale": (("factor",), lambda fields: scale(_factor(fields, "factor"))),
    "add": (("value",), lambda fields: add(_factor(fields, "value"))),
    "set": (("value",), lambda fields: set_to(_factor(fields, "value"))),
    "ablate": (("heads", "channels", "words", "by"), _ablate),
    "scale_word": (("word", "factor", "origin"), _scale_word),
    "reweight": (("words", "factors", "renormalise"), _reweight),
    "swap": (("first", "second"), _swap),
}

READERS: Mapping[str, tuple[tuple[str, ...], Callable[[Fields], Wish]]] = {
    "run": (("recipe", "edits", "place", "watch", "previews", "live"), _run),
    "tensor": (("name", "step", "branch", "place"), _tensor),
    "words": (("prompt",), _prompt),
    "plane": (("prompts",), lambda fields: PlaneWish(_prompts(fields))),
    "save": (
        ("what",),
        lambda fields: SaveWish(fields.choice("what", ("picture", "tensors"), "picture")),
    ),
    "cancel": ((), lambda fields: CancelWish()),
}


def frame(head: Mapping[str, Any], body: bytes) -> bytes:
    """A binary answer: the length of its head (4 bytes, the lowest first), the head as JSON, the body."""
    text = json.dumps(head).encode()
    return struct.pack("<I", len(text)) + text + body
