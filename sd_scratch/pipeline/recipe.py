"""`Recipe`: everything that makes a picture, so that it can be made again.

It is stored inside the picture (see `png`) twice: as JSON, from which a run is repeated, and as the
text that AUTOMATIC1111's web interface writes, which many other programs read.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sd_scratch.diffusion.noise import Drawing
from sd_scratch.diffusion.sampler_names import a1111_schedule, find_sampler
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.diffusion.spacing import OWN, SPACINGS, find_spacing
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.json_file import Fields, parse_json
from sd_scratch.limits import (
    CLIP_SKIP,
    DTYPES,
    GUIDANCE,
    PREDICTION_TYPES,
    RNGS,
    SEED,
    SIDE,
    STEPS,
    TILINGS,
)
from sd_scratch.pipeline.adapters import (
    ControlUse,
    EmbeddingUse,
    LoraUse,
    controls_from_json,
    embeddings_from_json,
    embeddings_in,
    loras_from_json,
    show_hashes,
    take_tags,
    with_hashes,
    with_tags,
)
from sd_scratch.pipeline.emphasis import EMPHASES
from sd_scratch.text.cleaning import STYLES
from sd_scratch.text.syntax import SYNTAXES
from sd_scratch.version import __version__

A1111_SAMPLERS = {sampler.name: sampler.metadata_name for sampler in SAMPLERS.values()}

A1111_EMPHASES = {"none": "No norm"}  # what it writes where it is not its own default

RNG_NAMES = {
    "CPU": "cpu",
    "NV": "nv",
    "GPU": "nv",
    "CUDA": "nv",
}  # of A1111 and stable-diffusion.cpp

A1111_SCHEDULES = {"karras": "Karras", "linspace": "Uniform", OWN: None}

Option = bool | int | float | str


@dataclass(frozen=True)
class Recipe:
    """How a picture was made, or is to be made. None leaves a value to the model's own default.

    Attributes:
        sampler_options: what the sampler takes beside steps, such as ``eta``.
        schedule: how the noise levels are spread, one of `sd_scratch.diffusion.spacing.SPACINGS`.
        guidance: classifier-free guidance scale.
        guidance_rescale: how far its contrast is taken back, 0 to 1.
        width, height: in pixels.
        model: a shipped model's name, a hub id, or a file's or folder's name without its path.
        revision: the hub commit, for a hub id.
        model_hash: the first 10 hex digits of the weights' sha256.
        dtype: what the networks computed in.
        prediction, zero_snr: what the network predicts, and whether its schedule ends in pure noise, where
            that was said in the checkpoint's place.
        loras: what was added to the weights.
        embeddings: what words were added to the vocabulary.
        controls: what ControlNets steered it.
        syntax: what brackets mean in the prompts, one of `sd_scratch.text.syntax.SYNTAXES`.
        emphasis: how their weights act, one of `sd_scratch.pipeline.emphasis.EMPHASES`.
        init_image, strength: the name of the picture that it began with, without its path, and the share of
            the steps that were taken from there.
        tiling: the axes on which opposite edges fit, one of `sd_scratch.limits.TILINGS`.
        rng, ensd, subseed, subseed_strength: how the seed becomes noise, see
            `sd_scratch.diffusion.noise.Drawing`.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int | None = None
    steps: int | None = None
    sampler: str | None = None
    sampler_options: Mapping[str, Option] = field(default_factory=dict)
    schedule: str | None = None
    guidance: float | None = None
    guidance_rescale: float | None = None
    width: int | None = None
    height: int | None = None
    clip_skip: int | None = None
    text_cleaning: str | None = None
    model: str | None = None
    revision: str | None = None
    model_hash: str | None = None
    dtype: str | None = None
    prediction: str | None = None
    zero_snr: bool | None = None
    loras: tuple[LoraUse, ...] | None = None
    embeddings: tuple[EmbeddingUse, ...] | None = None
    controls: tuple[ControlUse, ...] | None = None
    syntax: str | None = None
    emphasis: str | None = None
    rng: str | None = None
    ensd: int | None = None
    subseed: int | None = None
    subseed_strength: float | None = None
    tiling: str | None = None
    init_image: str | None = None
    strength: float | None = None

    def over(self, **values: Any) -> "Recipe":
        """The same with other values; a value that is None leaves what is there."""
        return replace(self, **{key: value for key, value in values.items() if value is not None})

    @property
    def known(self) -> dict[str, Any]:
        """All that is not None, as plain data."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @property
    def reading(self) -> dict[str, Any]:
        """How its texts are read, as `StableDiffusion.prompt` wants it."""
        return {
            "clip_skip": self.clip_skip or 1,
            "syntax": self.syntax or SYNTAXES[0],
            "emphasis": self.emphasis or EMPHASES[0],
        }

    def drawing(self, picture: int = 0) -> Drawing:
        """How its seed becomes noise, in picture number `picture` of several."""
        subseed = (self.subseed or 0) + picture
        return Drawing(self.rng or RNGS[0], self.ensd or 0, subseed, self.subseed_strength or 0.0)

    def to_json(self) -> str:
        return json.dumps({"version": __version__, **self.known}, ensure_ascii=False)

    def to_parameters(self) -> str:
        """The text that AUTOMATIC1111 writes: the prompt, the negative prompt, one line of settings."""
        options = dict(self.sampler_options)
        size = f"{self.width}x{self.height}" if self.width and self.height else None
        settings = {
            "Steps": self.steps,
            "Sampler": A1111_SAMPLERS.get(self.sampler or "", self.sampler),
            "Schedule type": A1111_SCHEDULES.get(self.schedule or "", self.schedule),
            "CFG scale": None if self.guidance is None else f"{self.guidance:g}",
            "CFG rescale": self.guidance_rescale or None,
            "Seed": self.seed,
            "Size": size,
            "Model hash": self.model_hash,
            "Model": self.model,
            "Clip skip": self.clip_skip if self.clip_skip != 1 else None,
            "Eta DDIM" if self.sampler == "ddim" else "Eta": options.get("eta"),
            "Emphasis": "None"
            if self.syntax == "plain"
            else A1111_EMPHASES.get(self.emphasis or ""),
            "RNG": (self.rng or RNGS[0]).upper(),
            "ENSD": self.ensd or None,
            "Variation seed": self.subseed if self.subseed_strength else None,
            "Variation seed strength": self.subseed_strength or None,
            "Tiling": True if self.tiling == "xy" else None,
            "Denoising strength": self.strength,
            "Version": f"sd_scratch {__version__}",
        }
        line = ", ".join(f"{k}: {_plain(v)}" for k, v in settings.items() if v is not None)
        loras = tuple(use._replace(name=_plain(use.name)) for use in self.loras or ())
        words = tuple(use._replace(name=_plain(use.name)) for use in self.embeddings or ())
        for title, hashes in (("Lora", show_hashes(loras)), ("TI", show_hashes(words))):
            line += f', {title} hashes: "{hashes}"' if hashes else ""
        negative = f"Negative prompt: {self.negative_prompt}\n" if self.negative_prompt else ""
        return f"{with_tags(self.prompt, loras)}\n{negative}{line}"


def recipe_from_json(text: str, where: str) -> Recipe:
    """The inverse of `Recipe.to_json`, for text from strangers: every value's type and range is
    checked, and keys that are not known are left out.

    Raises ScratchError that names `where` and the key.
    """
    data = {
        key: value for key, value in parse_json(text.encode(), where).items() if value is not None
    }
    fields = Fields(data, where)

    def words(key: str) -> str | None:
        value = data.get(key)
        if value is not None and not isinstance(value, str):
            fields.fail(key, "a text")
        return value

    def integer(key: str, low: int, high: int) -> int | None:
        return fields.integer(key, low, high) if key in data else None

    def choice(key: str, allowed: tuple[str, ...]) -> str | None:
        return fields.choice(key, allowed) if key in data else None

    options = data.get("sampler_options", {})
    plain = isinstance(options, dict) and all(isinstance(v, Option) for v in options.values())
    if not plain:
        fields.fail("sampler_options", "an object of numbers and texts")
    # Older recipes have the spacing among the sampler's options.
    options = dict(options)
    key = "sigmas" if "sigmas" in options else "schedule"
    spacing = options.pop("sigmas", data.get("schedule"))
    if spacing is not None:
        try:
            spacing = str(find_spacing(spacing))
        except UsageError:
            Fields({key: spacing}, where).fail(key, "one of " + ", ".join(SPACINGS))
    return Recipe(
        prompt=words("prompt") or "",
        negative_prompt=words("negative_prompt") or "",
        seed=integer("seed", *SEED),
        steps=integer("steps", *STEPS),
        sampler=words("sampler"),
        sampler_options=options,
        schedule=spacing,
        guidance=fields.number("guidance", *GUIDANCE) if "guidance" in data else None,
        guidance_rescale=fields.number("guidance_rescale", 0, 1)
        if "guidance_rescale" in data
        else None,
        width=integer("width", *SIDE),
        height=integer("height", *SIDE),
        clip_skip=integer("clip_skip", *CLIP_SKIP),
        text_cleaning=choice("text_cleaning", STYLES),
        model=words("model"),
        revision=words("revision"),
        model_hash=words("model_hash"),
        dtype=choice("dtype", DTYPES),
        # Before there was a choice every character was text.
        syntax=choice("syntax", SYNTAXES) or "plain",
        emphasis=choice("emphasis", EMPHASES),
        tiling=choice("tiling", TILINGS),
        rng=choice("rng", RNGS),
        ensd=integer("ensd", *SEED),
        subseed=integer("subseed", *SEED),
        init_image=words("init_image"),
        strength=fields.number("strength", 0, 1) if "strength" in data else None,
        subseed_strength=fields.number("subseed_strength", 0, 1)
        if "subseed_strength" in data
        else None,
        prediction=choice("prediction", PREDICTION_TYPES),
        zero_snr=fields.flag("zero_snr", False) if "zero_snr" in data else None,
        loras=loras_from_json(fields, data["loras"]) if "loras" in data else None,
        controls=controls_from_json(fields, data["controls"]) if "controls" in data else None,
        embeddings=embeddings_from_json(fields, data["embeddings"])
        if "embeddings" in data
        else None,
    )


def recipe_from_parameters(text: str, where: str) -> tuple[Recipe, tuple[str, ...]]:
    """The inverse of `Recipe.to_parameters`, for text that any program wrote.

    Returns the recipe, and the names of the settings that it has no place for. Raises ScratchError
    where there are no settings, or where one is not what its name says.
    """
    lines = text.strip().split("\n")
    starts = [i for i, line in enumerate(lines) if line.startswith("Steps: ")]
    if not starts:
        raise ScratchError(
            f"{where} - no line of settings that starts with 'Steps: ' - not repeatable"
        )
    prompt, marker, negative = ("\n" + "\n".join(lines[: starts[-1]])).partition(
        "\nNegative prompt:"
    )
    settings = _Settings(_split_settings(lines[starts[-1]]), where)

    sampler, options, spacing = settings.sampler()
    width, height = settings.size("Size")
    try:
        text, loras = take_tags(prompt.strip())
    except UsageError as error:
        raise ScratchError(f"{where} - {error}") from None
    if loras:
        loras = with_hashes(loras, settings.take("Lora hashes") or "")
    recipe = Recipe(
        prompt=text,
        negative_prompt=negative.strip(),
        seed=settings.integer("Seed", *SEED),
        steps=settings.integer("Steps", *STEPS),
        sampler=sampler,
        sampler_options=options,
        schedule=spacing,
        guidance=settings.number("CFG scale", *GUIDANCE),
        guidance_rescale=settings.number("CFG rescale", 0, 1),
        width=width,
        height=height,
        clip_skip=settings.integer("Clip skip", *CLIP_SKIP),
        model=settings.take("Model"),
        model_hash=settings.take("Model hash"),
        loras=loras or None,
        controls=None,
        zero_snr=None,
        tiling="xy" if settings.take("Tiling") == "True" else None,
        init_image=None,
        strength=None,
        embeddings=embeddings_in(settings.take("TI hashes") or "") or None,
        rng=settings.rng(),
        ensd=settings.integer("ENSD", *SEED),
        subseed=settings.integer("Variation seed", *SEED),
        subseed_strength=settings.number("Variation seed strength", 0, 1),
        **settings.emphasis(),
    )
    settings.take("Version")
    return recipe, tuple(settings.left)


class _Settings:
    """The settings line as a table, each value taken out with its type and range checked."""

    def __init__(self, values: dict[str, str], where: str) -> None:
        self.left = values
        self.where = where

    def take(self, key: str) -> str | None:
        return self.left.pop(key, None)

    def integer(self, key: str, low: int, high: int) -> int | None:
        value = self.take(key)
        return None if value is None else self._integer(key, value, low, high)

    def number(self, key: str, low: float, high: float) -> float | None:
        text = self.take(key)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            self._fail(key, text, f"a number from {low:g} to {high:g}")
        return value

    def sampler(self) -> tuple[str | None, dict[str, Option], str | None]:
        """The sampler by our name (or by a name that we do not know), its options, and the schedule."""
        written = self.take("Sampler")
        if written is None:
            return None, {}, None
        # Before version 1.9 the spacing was a part of the name: "DPM++ 2M Karras".
        name, named = find_sampler(written)
        known = SAMPLERS[name].options if name in SAMPLERS else {}
        options: dict[str, Option] = {}
        automatic = "Automatic"
        if self.left.get("Version", "").startswith("stable-diffusion.cpp"):
            automatic = "Uniform"
            self.take("Guidance")  # of other models
            if name == "ddim":  # whose eta it writes for every sampler, inf where nothing was said
                self.left["Eta DDIM"] = self.left.get("Eta", "inf")
            if self.left.get("Eta DDIM") == "inf":
                self.take("Eta DDIM")
            self.take("Eta")
        eta = self.number("Eta DDIM" if name == "ddim" else "Eta", 0.0, 1.0)
        if eta is not None and "eta" in known:
            options["eta"] = eta
        spacing = self.left.get("Schedule type", (named or automatic).capitalize())
        spacing = "Uniform" if spacing == "Discrete" else spacing
        schedule = a1111_schedule(name, spacing)
        if schedule != "":
            self.take("Schedule type")
        return name, options, schedule or None

    def emphasis(self) -> dict[str, str | None]:
        """What A1111 calls its emphasis; where it says nothing, it is its own."""
        written = self.left.get("Emphasis", "Original")
        if written in ("None", "No norm", "Original"):
            self.take("Emphasis")
        names = {ours: theirs for theirs, ours in A1111_EMPHASES.items()}
        return {
            "syntax": "plain" if written == "None" else "a1111",
            "emphasis": names.get(written, "a1111"),
        }

    def rng(self) -> str:
        """The source of noise. Where nothing is said it was a graphics card, mostly one of NVIDIA's."""
        written = self.left.get("RNG", "GPU")
        if written.upper() in RNG_NAMES:
            self.take("RNG")
        return RNG_NAMES.get(written.upper(), "nv")

    def size(self, key: str) -> tuple[int | None, int | None]:
        text = self.take(key)
        if text is None:
            return None, None
        width, _, height = text.partition("x")
        return self._integer(key, width, *SIDE), self._integer(key, height, *SIDE)

    def _integer(self, key: str, text: str, low: int, high: int) -> int:
        # At most 20 digits, and only 0-9: int() alone would take other scripts' digits and "1_000".
        value = int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else -1
        if not low <= value <= high:
            self._fail(key, text, f"an integer from {low} to {high}")
        return value

    def _fail(self, key: str, text: str, expected: str) -> None:
        raise ScratchError(f"{self.where} - '{key}' must be {expected}, found {text[:40]!r}")


def _split_settings(line: str) -> dict[str, str]:
    """``Steps: 20, Sampler: Euler a, Lora hashes: "a: 1, b: 2"`` to a table; the first of a name wins."""
    parts, start, quoted = [], 0, False
    for i, char in enumerate(line):
        if char == '"' and line[i - 1 : i] != "\\":
            quoted = not quoted
        elif char == "," and not quoted:
            parts.append(line[start:i])
            start = i + 1
    parts.append(line[start:])
    settings: dict[str, str] = {}
    for part in parts:
        key, _, value = part.partition(":")
        if value.strip():
            settings.setdefault(key.strip(), value.strip())
    return settings


def _plain(value: object) -> str:
    """A value that readers can split off: commas, colons and line ends mean something to them."""
    return "".join("_" if c in ',:"\n\r' else c for c in str(value)).strip()
