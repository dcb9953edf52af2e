"""Recipes in the text that AUTOMATIC1111's web interface writes into its pictures, and others as it does.

Text from strangers: every value's type and range is checked.
"""

from typing import Any

from sd_scratch.diffusion.sampler_names import a1111_schedule, find_sampler
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.limits import CLIP_SKIP, GUIDANCE, HIRES_SCALE, SEED, SIDE, STEPS
from sd_scratch.pipeline.adapters import embeddings_in, take_tags, with_hashes
from sd_scratch.pipeline.part_way import UPSCALED, UPSCALERS
from sd_scratch.pipeline.recipe import A1111_EMPHASES, Recipe
from sd_scratch.pipeline.settings import Option

RNG_NAMES = {
    "CPU": "cpu",
    "NV": "nv",
    "GPU": "nv",
    "CUDA": "nv",
}  # of A1111 and stable-diffusion.cpp


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
        vae=settings.vae(),
        loras=loras or None,
        tiling="xy" if settings.take("Tiling") == "True" else None,
        **settings.hires(width, height),
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

    def hires(self, width: int | None, height: int | None) -> dict[str, Any]:
        """What A1111 says of its "Hires. fix"; of upscalers that are networks Lanczos is the nearest, and the
        setting is left."""
        scale = self.number("Hires upscale", *HIRES_SCALE)
        written = self.left.get("Hires resize", "")
        if scale is None and width and height and written.replace("x", "").isdigit():
            ratios = [
                float(new) / old
                for new, old in zip(written.split("x"), (width, height), strict=False)
            ]
            if len(set(ratios)) == 1 and HIRES_SCALE[0] <= ratios[0] <= HIRES_SCALE[1]:
                scale = ratios[0]
                self.take("Hires resize")
        if scale is None:
            return {}
        named = self.left.get("Hires upscaler", UPSCALERS[UPSCALED].title)
        ours = {upscaler.title: name for name, upscaler in UPSCALERS.items()}
        if named in ours:
            self.take("Hires upscaler")
        ours_wrote = self.left.get("Version", "").startswith("sd_scratch")
        return {
            "strength_steps": None if ours_wrote else "a1111",
            "hires_scale": scale,
            "hires_method": ours.get(named, "lanczos"),
            "hires_strength": self.number("Denoising strength", 0, 1),
            "hires_steps": self.integer("Hires steps", 0, STEPS[1]) or None,
        }

    def emphasis(self) -> dict[str, Any]:
        """What A1111 calls its emphasis; where it says nothing, it is its own."""
        written = self.left.get("Emphasis", "Original")
        if written in ("None", "No norm", "Original"):
            self.take("Emphasis")
        names = {ours: theirs for theirs, ours in A1111_EMPHASES.items()}
        return {
            "syntax": "plain" if written == "None" else "a1111",
            "emphasis": names.get(written, "a1111"),
        }

    def vae(self) -> str | None:
        """The VAE's name where it was another than the model's own."""
        self.take("VAE hash")
        written = self.take("VAE")
        return None if written in ("None", "Automatic") else written

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
