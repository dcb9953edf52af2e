"""Recipes as InvokeAI stores them in a picture.

The text is untrusted: every value's type and range is checked, and nothing that it names is opened.
"""

import re
from typing import Any

from sd_scratch.dialects.hires import CELL, LATENT_METHODS, Size
from sd_scratch.diffusion.sampler_names import DRAWING, find_sampler
from sd_scratch.errors import ScratchError
from sd_scratch.json_file import Fields, parse_json
from sd_scratch.limits import CLIP_SKIP, GUIDANCE, HIRES_SCALE, LORA_SCALE, SEED, SIDE, STEPS
from sd_scratch.pipeline.adapters import MAX_USES, LoraUse
from sd_scratch.pipeline.recipe import Recipe

INVOKE = "invokeai_metadata"  # keyword
INVOKE_READ = {
    *("positive_prompt", "negative_prompt", "seed", "steps", "scheduler", "cfg_scale", "width"),
    *("height", "clip_skip", "model", "rand_device", "generation_mode", "app_version"),
    *("cfg_rescale_multiplier", "loras", "seamless_x", "seamless_y", "vae"),
}
# A word or brackets with signs or a number behind them, and brackets at all: its weights of words.
WEIGHTS = re.compile(r"\w[+-]+(?=[\s,.;)]|$)|\(")

Read = tuple[Recipe, tuple[str, ...]]
"""A recipe, and what it has no place for."""


def recipe_from_invoke(text: str, where: str, size: Size | None = None) -> Read:
    """The recipe in InvokeAI's metadata, as it writes them since version 3, of a picture of that size."""
    data = {k: v for k, v in parse_json(text.encode(), where).items() if v is not None}
    fields = Fields(data, where)
    if data.get("generation_mode", "txt2img") not in ("txt2img", "sd1_txt2img"):
        raise ScratchError(f"{where} - was not made from text alone - give the settings themselves")
    name, schedule = find_sampler(fields.words("scheduler"))
    passes, left = _invoke_passes(fields, size)
    recipe = Recipe(
        fields.words("positive_prompt"),
        fields.words("negative_prompt") if "negative_prompt" in data else "",
        seed=fields.integer("seed", *SEED),
        steps=fields.integer("steps", *STEPS),
        sampler=name,
        schedule=schedule,
        guidance=fields.number("cfg_scale", *GUIDANCE),
        clip_skip=fields.integer("clip_skip", 0, CLIP_SKIP[1] - 1) + 1
        if "clip_skip" in data
        else None,
        guidance_rescale=fields.number("cfg_rescale_multiplier", 0, 1, 0.0) or None,
        model=_name(data.get("model")),
        vae=_name(data.get("vae")),
        loras=_loras(fields) or None,
        tiling="".join(side for side in "xy" if data.get(f"seamless_{side}") is True) or None,
        rng="cpu" if data.get("rand_device", "cpu") == "cpu" else "nv",
        syntax="plain",
        text_cleaning="transformers",
        **passes,
    )
    left += [
        key
        for key, value in data.items()
        if key not in INVOKE_READ and value not in ([], {}, False, 0) and not key.startswith("hrf_")
    ]
    if any(WEIGHTS.search(text) for text in (recipe.prompt, recipe.negative_prompt)):
        left.append("weights in the prompt")
    if name in DRAWING:
        left.append(f"the noise that {fields.words('scheduler')} adds (another stream's)")
    return recipe, tuple(left)


def _name(model: Any) -> str | None:
    """A model's name, in several versions of the format."""
    names = [model.get(key) for key in ("name", "model_name")] if isinstance(model, dict) else []
    return next((name for name in names if isinstance(name, str)), None)


def _loras(fields: Fields) -> tuple[LoraUse, ...]:
    rows = fields.data.get("loras", [])
    uses = []
    for row in rows if isinstance(rows, list) and len(rows) <= MAX_USES else [None]:
        row = row if isinstance(row, dict) else {}
        name = _name(row.get("model", row.get("lora")))
        if name is None:
            fields.fail("loras", "a list of models with a weight")
        weight = Fields(row, f"{fields.where}, loras").number("weight", *LORA_SCALE, 0.75)
        uses.append(LoraUse(name, weight, weight))
    return tuple(uses)


def _invoke_passes(fields: Fields, size: Size | None) -> tuple[dict[str, Any], list[str]]:
    """The size, the second pass, and its unsupported settings. The stored width and height are those of the
    first pass in some versions, of the finished picture in others."""
    width, height = fields.integer("width", *SIDE), fields.integer("height", *SIDE)
    one = {"width": width, "height": height}
    if not fields.data.get("hrf_enabled"):
        return one, []
    method = str(fields.data.get("hrf_method"))
    mode = str(fields.data.get("hrf_latent_interpolation_mode", ""))
    if method != "latent" or mode not in LATENT_METHODS:
        said = f"{method[:40]} {mode[:40]}".strip()
        return one, [f"hrf_enabled (a second pass by {said} is not here)"]
    scale = fields.number("hrf_scale", *HIRES_SCALE)
    if size == (width, height):
        one = {key: round(side / scale / CELL) * CELL for key, side in one.items()}
    return {
        **one,
        "hires_scale": scale,
        "hires_method": LATENT_METHODS[mode],
        "hires_strength": fields.number("hrf_strength", 0, 1),
    }, []
