"""What the page may ask for, as JSON from strangers: each message is checked whole before anything runs.

`docs/page.md` has the format. A message is an object with ``do``, what is wished for, and ``id``, a number
that comes back in every answer.
"""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.json_file import Fields, parse_json
from sd_scratch.page.edits import (
    BRANCHES,
    EDITS_LIMIT,
    NUMBER_LIMIT,
    STEPS_LIMIT,
    TEXT_LIMIT,
    EditWish,
    only,
    read_edit,
)
from sd_scratch.pipeline.adapters import LoraUse, take_tags, uses_from_json
from sd_scratch.pipeline.mask_use import MAX_NAME
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json

FORMAT = 2
MESSAGE_LIMIT = 64_000  # bytes of one message
PICTURE_LIMIT = 16_000_000  # bytes of a picture's file
SIDE_LIMIT, GUIDANCE_LIMIT = 1024, 1000.0
PLACES_LIMIT, WATCH_LIMIT, LORAS_LIMIT, SCORE_LIMIT = 16, 4, 8, 8
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
    "loras",
    "init_image",
    "init_image_hash",
    "strength",
    "mask",
)
USES = ("picture", "mask")  # of a picture that a page sends


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
    loras: tuple[LoraUse, ...] = ()


@dataclass(frozen=True)
class SaveWish:
    """The picture, or the tensors that were looked at."""

    what: str = "picture"


@dataclass(frozen=True)
class ScoreWish:
    """The same as the session's last picture with its seed and the next ones: how often it has what was asked
    for. `count` pictures."""

    count: int


@dataclass(frozen=True)
class CancelWish:
    pass


@dataclass(frozen=True)
class PictureWish:
    """A file that a person chose on the page, or a mask that was drawn there: what its session's runs may
    begin with, and where they paint. `name` is without a path."""

    use: str
    name: str
    data: bytes = field(repr=False)


Wish = (
    RunWish | TensorWish | WordsWish | PlaneWish | SaveWish | ScoreWish | CancelWish | PictureWish
)


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


def read_picture_message(data: bytes) -> tuple[int, PictureWish]:
    """A binary message: the length of its head, the head as JSON, and a picture's file. Raises Refused."""
    length = int.from_bytes(data[:4], "little")
    if len(data) < 4 or length > MESSAGE_LIMIT or length > len(data) - 4:
        raise Refused("a binary message that does not begin with its head's length")
    number = None
    try:
        try:
            text = data[4 : 4 + length].decode()
        except UnicodeDecodeError:
            raise UsageError("the head of a binary message is no text") from None
        head = _object(text)
        fields = Fields(head, "message")
        number = fields.integer("id", 0, LAST_ID)
        fields.choice("do", ("picture",))
        only(head, ("do", "id", "use", "name"), "a picture's message")
        name = _name(fields, "name")
        if len(data) - 4 - length > PICTURE_LIMIT:
            raise UsageError(
                f"{name} has more than {PICTURE_LIMIT // 1_000_000} MB - send a smaller one"
            )
        return number, PictureWish(fields.choice("use", USES), name, data[4 + length :])
    except ScratchError as error:
        raise Refused(str(error), number) from None


def _name(fields: Fields, key: str) -> str:
    """A file's name, which is shown and stored, and never opened."""
    value = fields.data.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or set(value) & set("/\\\0\n"):
        fields.fail(key, "a file's name without folders")
    return str(value)


def _object(text: str) -> dict[str, Any]:
    try:
        return parse_json(text.encode(), "message")
    except UnicodeEncodeError:
        raise UsageError("the message holds half a character - send whole ones") from None
    except ScratchError as error:  # whose advice is about files
        raise UsageError(str(error).rpartition(" - ")[0] or str(error)) from None


def _run(fields: Fields) -> RunWish:
    data = fields.data
    if not isinstance(data.get("recipe"), dict):
        fields.fail("recipe", "an object")
    place = None
    if data.get("place") is not None:
        place = _place(_inner(fields, "place"))
    return RunWish(
        recipe=_recipe(data["recipe"]),
        edits=tuple(
            read_edit(Fields(each, "edit")) for each in _objects(fields, "edits", EDITS_LIMIT)
        ),
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
    _check_beginning(recipe, Fields(data, "recipe"))
    prompt, tagged = take_tags(recipe.prompt)
    loras = (*(recipe.loras or ()), *tagged)
    if len(loras) > LORAS_LIMIT:
        raise UsageError(f"{len(loras)} LoRAs - the page takes {LORAS_LIMIT}")
    # A recipe of the page says nothing of syntax, and is read as the model's default; a run without a seed
    # would be another one each time.
    return replace(recipe, prompt=prompt, loras=loras or None, syntax=None, seed=recipe.seed or 0)


def _check_beginning(recipe: Recipe, fields: Fields) -> None:
    """What a recipe says of the picture that it begins with."""
    for key in ("init_image", "init_image_hash"):
        if key in fields.data:
            _name(fields, key)
    if recipe.init_image_hash is not None and recipe.init_image is None:
        fields.fail("init_image", "the picture's name")
    if recipe.init_image_hash is None:
        for name in ("init_image", "strength", "mask"):
            if getattr(recipe, name) is not None:
                raise UsageError(f"{name} without a picture to begin with - choose one")
    if recipe.strength == 0:
        raise UsageError("strength 0 makes nothing anew - give more than 0")
    use = recipe.mask
    if use and (any(use.extend) or use.alpha or not use.hash or use.padding is not None):
        raise UsageError(
            "a mask of the page is a picture of its own, for all of the picture - margins, transparency and only"
            " what is masked are for generate"
        )


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


def _plane(fields: Fields) -> PlaneWish:
    loras = uses_from_json(fields, "loras", LoraUse)
    if len(loras) > LORAS_LIMIT:
        raise UsageError(f"{len(loras)} LoRAs - the page takes {LORAS_LIMIT}")
    return PlaneWish(_prompts(fields), loras)


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


READERS: Mapping[str, tuple[tuple[str, ...], Callable[[Fields], Wish]]] = {
    "run": (("recipe", "edits", "place", "watch", "previews", "live"), _run),
    "tensor": (("name", "step", "branch", "place"), _tensor),
    "words": (("prompt",), _prompt),
    "plane": (("prompts", "loras"), _plane),
    "save": (
        ("what",),
        lambda fields: SaveWish(fields.choice("what", ("picture", "tensors"), "picture")),
    ),
    "score": (
        ("count",),
        lambda fields: ScoreWish(fields.integer("count", 1, SCORE_LIMIT, SCORE_LIMIT)),
    ),
    "cancel": ((), lambda fields: CancelWish()),
}


def frame(head: Mapping[str, Any], body: bytes) -> bytes:
    """A binary answer: the length of its head (4 bytes, the lowest first), the head as JSON, the body."""
    text = json.dumps(head).encode()
    return struct.pack("<I", len(text)) + text + body
