"""The settings of a `Recipe`, one row each: its values, and what it decides in a picture.

Reading a stored recipe, checking one that is given and comparing two all follow from this table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sd_scratch.diffusion.spacing import SPACINGS, find_spacing
from sd_scratch.errors import UsageError
from sd_scratch.json_file import Fields
from sd_scratch.limits import (
    CLIP_SKIP,
    DTYPES,
    GUIDANCE,
    HIRES_SCALE,
    PAG,
    PREDICTION_TYPES,
    RNGS,
    SEED,
    SIDE,
    STEPS,
    STRENGTH_STEPS,
    TILINGS,
    UPSCALER_NAMES,
    real,
    whole,
)
from sd_scratch.pipeline.adapters import ControlUse, EmbeddingUse, LoraUse, uses_from_json
from sd_scratch.pipeline.emphasis import EMPHASES
from sd_scratch.pipeline.mask_use import mask_from_json
from sd_scratch.text.cleaning import STYLES
from sd_scratch.text.syntax import SYNTAXES

Read = Callable[[Fields, str], Any]
Option = bool | int | float | str


@dataclass(frozen=True)
class Setting:
    """One setting of a recipe.

    Attributes:
        decides: what it decides in a picture.
        read: reads it from a stored recipe; raises ScratchError for a bad value.
        limits, choices: the allowed numbers or texts; `number` reads a number.
        title: its name in messages, if that is another one.
        conventional: whether tools have different defaults.
    """

    decides: str
    read: Read
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    title: str = ""
    conventional: bool = False
    number: Callable[[Any], float | None] = real

    def checked(self, name: str, value: Any) -> Any:
        """The value, a number as Python's own. Raises UsageError for one that is not allowed."""
        name = self.title or name.replace("_", " ")
        if value is None:
            return None
        if self.choices and value not in self.choices:
            raise UsageError(f"{name} {value!r} is unknown - choose from {', '.join(self.choices)}")
        if self.read is Fields.words and not isinstance(value, str):
            raise UsageError(f"{name}: give a text, not {value!r:.80}")
        if self.limits is None:
            return value
        number, (low, high) = self.number(value), self.limits
        if number is None or not low <= number <= high:
            raise UsageError(f"{name} {value} is not in {low:g}..{high:g}")
        return number


def _words(decides: str) -> Setting:
    return Setting(decides, Fields.words)


def _integer(decides: str, limits: tuple[int, int], **more: Any) -> Setting:
    read: Read = lambda fields, key: fields.integer(key, *limits)  # noqa: E731
    return Setting(decides, read, limits, number=whole, **more)


def _number(decides: str, limits: tuple[float, float], **more: Any) -> Setting:
    return Setting(decides, lambda fields, key: fields.number(key, *limits), limits, **more)


def _choice(decides: str, choices: tuple[str, ...], **more: Any) -> Setting:
    read: Read = lambda fields, key: fields.choice(key, choices)  # noqa: E731
    return Setting(decides, read, choices=choices, **more)


def _flag(decides: str) -> Setting:
    return Setting(decides, lambda fields, key: fields.flag(key, False))


def _rows(decides: str, parse: Callable[[Fields, Any], Any]) -> Setting:
    return Setting(decides, lambda fields, key: parse(fields, fields.data[key]))


def _uses(decides: str, kind: type[LoraUse | EmbeddingUse | ControlUse]) -> Setting:
    return Setting(decides, lambda fields, key: uses_from_json(fields, key, kind))


def _options(fields: Fields, value: Any) -> dict[str, Option]:
    if not isinstance(value, dict) or not all(
        isinstance(v, str | bool) or real(v) is not None for v in value.values()
    ):
        fields.fail("sampler_options", "an object of numbers and texts")
    return value


def _spacing(fields: Fields, key: str) -> str:
    try:
        return str(find_spacing(fields.data[key]))
    except UsageError:
        fields.fail(key, "one of " + ", ".join(SPACINGS))


SHARE = (0.0, 1.0)

# In the order in which they change a picture.
SETTINGS: dict[str, Setting] = {
    "prompt": _words("what is shown"),
    "negative_prompt": _words("what is steered away from"),
    "init_noise": _words("the noise: another picture altogether"),
    "seed": _integer("the noise: another picture altogether", SEED),
    "rng": _choice(
        "where the noise comes from: another picture altogether, from the same seed",
        RNGS,
        conventional=True,
    ),
    "subseed": _integer("which noise the seed's own is turned towards", SEED),
    "subseed_strength": _number("how far the noise is turned", SHARE),
    "width": _integer("the latent's size, and with it the noise", SIDE),
    "height": _integer("the latent's size, and with it the noise", SIDE),
    "model": _words("the weights"),
    "model_hash": _words("the weights"),
    "revision": _words("the weights"),
    "vae": _words("how latents become pixels"),
    "text_encoder": _words("how texts become vectors"),
    "ema": _flag("which copy of the weights"),
    "prediction": _choice("what the network's answer is taken for", PREDICTION_TYPES),
    "zero_snr": _flag("whether the schedule ends in pure noise"),
    "loras": _uses("what is added to the weights", LoraUse),
    "embeddings": _uses("what words are added to the vocabulary", EmbeddingUse),
    "controls": _uses("what steers beside the prompt", ControlUse),
    "syntax": _choice(
        "what brackets, BREAK and length do to the prompt", SYNTAXES, conventional=True
    ),
    "emphasis": _choice("how weights act on the text's vectors", EMPHASES, conventional=True),
    "text_cleaning": _choice("the tokens of unusual characters", STYLES, conventional=True),
    "clip_skip": _integer("which layer the text's vectors come from", CLIP_SKIP),
    "sampler": _words("the way from noise to picture"),
    "sampler_options": _rows("details of that way", _options),
    "schedule": Setting("the noise levels on it", _spacing, conventional=True),
    "steps": _integer("how many steps it has", STEPS),
    "init_image": _words("the picture that it began with"),
    "init_image_hash": _words("the picture that it began with"),
    "strength": _number("how much of the picture that it began with is made anew", SHARE),
    "strength_steps": _choice(
        "how many steps that takes", STRENGTH_STEPS, title="way to count steps", conventional=True
    ),
    "mask": _rows("where that picture is painted anew, and how the rest is kept", mask_from_json),
    "image_guidance": _number("how strongly that picture steers", GUIDANCE),
    "hires_scale": _number("whether a second pass makes it larger", HIRES_SCALE),
    "hires_method": _choice("how it is enlarged", UPSCALER_NAMES, title="upscaler"),
    "hires_strength": _number("how much the second pass makes anew", SHARE),
    "hires_steps": _integer("the second pass's steps", STEPS),
    "ensd": _integer("the noise that a sampler adds on the way", SEED, conventional=True),
    "tiling": _choice("whether opposite edges fit", TILINGS),
    "guidance": _number("how strongly the prompt steers", GUIDANCE),
    "guidance_rescale": _number("how far the contrast of guidance is taken back", SHARE),
    "pag": _number(
        "how strongly it is guided away from perturbed attention", PAG, title="pag scale"
    ),
    "pag_layers": _words("whose self-attention is perturbed for that"),
    "pag_adaptive_scale": _number("how fast that fades", SHARE),
    "fast": _words("what work is left out"),
    "dtype": _choice("the last bits", DTYPES),
}
