"""What the page is told: the model, its tensors, a prompt's words, and pictures to save."""

import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sd_scratch.dialects.stored_recipe import A1111, OWN
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.diffusion.spacing import SPACINGS
from sd_scratch.errors import UsageError
from sd_scratch.page.edits import EDITS, EDITS_LIMIT, STEPS_LIMIT, TEXT_LIMIT
from sd_scratch.page.messages import (
    FORMAT,
    GUIDANCE_LIMIT,
    LORAS_LIMIT,
    PICTURE_LIMIT,
    PLACES_LIMIT,
    SIDE_LIMIT,
)
from sd_scratch.page.runs import Result
from sd_scratch.pictures.png import encode_png
from sd_scratch.pipeline.adapters import take_tags
from sd_scratch.pipeline.checks import inputs_beside
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.scenes import oracle
from sd_scratch.tensors.listing import meaning
from sd_scratch.text.chunks import encode_prompt
from sd_scratch.version import __version__

PAGE = "sd_scratch page"  # keyword of a text in a PNG file
SCENES = "scenes"
EXAMPLES = {
    SCENES: (
        "a medium yellow triangle to the left of a small blue ring on a white background",
        "a large red star on a blue background",
        "a small green circle above a large purple square on a white background",
        "three small red circles on a yellow background",
    )
}
LANDMARKS = {
    SCENES: (
        "a large red circle on a white background",
        "a large blue circle on a white background",
        "a large red star on a white background",
        "a large blue star on a white background",
    )
}
PHOTOGRAPHS = (
    "a photograph of an astronaut riding a horse",
    "a lighthouse in a storm, oil painting",
)
TRIO = ("a photograph of a cat", "a photograph of a dog", "a photograph of a fox")


def hello(model: StableDiffusion, named: Recipe) -> dict[str, Any]:
    """The first answer of every session: what the model is, and what may be asked for."""
    config = model.config
    return {
        "say": "hello",
        "format": FORMAT,
        "version": __version__,
        "model": named.model,
        "name": config.name,
        "device": str(model.device),
        "dtype": model.dtype_name,
        "parameters": {
            name: sum(p.numel() for p in network.parameters())
            for name, network in model.networks.items()
        },
        "defaults": {
            "steps": config.steps,
            "sampler": config.sampler,
            "guidance": config.guidance,
            "width": config.sample_size,
            "height": config.sample_size,
        },
        "samplers": [name for name, sampler in SAMPLERS.items() if not sampler.climbs],
        "schedules": list(SPACINGS),
        "edits": {kind: list(keys) for kind, (keys, _) in EDITS.items()},
        "limits": {
            "text": TEXT_LIMIT,
            "steps": STEPS_LIMIT,
            "side": SIDE_LIMIT,
            "cell": config.vae.downscale,
            "guidance": GUIDANCE_LIMIT,
            "edits": EDITS_LIMIT,
            "places": PLACES_LIMIT,
            "loras": LORAS_LIMIT,
            "picture": PICTURE_LIMIT,
        },
        "examples": list(EXAMPLES.get(config.name, PHOTOGRAPHS)),
        "landmarks": list(LANDMARKS.get(config.name, TRIO)),
        "needs": inputs_beside(config),
        "tensors": listing(model),
    }


def listing(model: StableDiffusion) -> list[dict[str, Any]]:
    """Every tensor, as the architecture is drawn from it."""
    return [
        {
            "name": info.name,
            "leaf": info.leaf,
            "meaning": meaning(info),
            "axes": list(info.axes),
            "shape": list(info.shape),
            "hw": info.hw,
            "editable": info.editable,
            "stepwise": info.stepwise,
            "branched": info.branched,
        }
        for info in model.tensors()
    ]


def words_of(model: StableDiffusion, number: int, text: str) -> dict[str, Any]:
    """A prompt's tokens and words."""
    encoding = encode_prompt(model.tokenizer, take_tags(text)[0])
    return {
        "say": "words",
        "id": number,
        "prompt": text,
        "tokens": [[t.text, t.id, t.start, t.end, t.position] for t in encoding.tokens],
        "words": [[w.text, w.start, w.end, list(w.positions)] for w in encoding.words],
        "cut": encoding.cut,
        "notes": list(encoding.notes),
        "chunks": len(encoding.chunks),
    }


def reading(model: StableDiffusion, pixels: Tensor) -> oracle.Reading | None:
    """What the oracle sees in a picture ``[3, H, W]`` uint8 of `scenes`; None for other models."""
    if model.config.name != SCENES or pixels.shape[1] != pixels.shape[2]:
        return None
    return oracle.read((pixels.float() / 127.5 - 1)[None])[0]


def sentence(seen: oracle.Reading | None) -> str | None:
    if seen is None:
        return None
    things = [f"{_thing(each)} ({each.place})" for each in seen.objects]
    return f"{', '.join(things) or 'nothing'} on {seen.background}"


def masks(seen: oracle.Reading | None, hw: tuple[int, int] | None) -> list[tuple[str, list[int]]]:
    """Where each object is, in percent of every cell of a feature map, row by row: what a map can be held against."""
    if seen is None or hw is None:
        return []
    small = [torch.nn.functional.adaptive_avg_pool2d(o.mask[None], hw)[0] for o in seen.objects]
    percent = [(100 * mask).round().int().flatten().tolist() for mask in small]
    return list(zip(map(_thing, seen.objects), percent, strict=True))


def _thing(item: oracle.ReadObject) -> str:
    return " ".join(filter(None, (item.size, item.colour, item.shape or "blob")))


def saved(model: StableDiffusion, result: Result, named: Recipe) -> bytes:
    """A finished picture as a PNG file with its recipe. What no recipe holds, the edits and the place between
    prompts, is in it as a text of the page's own."""
    picture = Image.fromarray(result.pixels.permute(1, 2, 0).contiguous().numpy())
    recipe = whole(result.recipe, named).over(model_hash=model.components.hash or None)
    texts = {A1111: recipe.to_parameters(), OWN: recipe.to_json()}
    if result.wish.edits or result.wish.place is not None:
        texts[PAGE] = json.dumps(result.wish.plain, ensure_ascii=False)
    return encode_png(picture, texts)


def whole(recipe: Recipe, named: Recipe) -> Recipe:
    """A run's recipe with what the model and its parts are called."""
    names = {key: getattr(named, key) for key in ("model", "revision", "vae", "text_encoder")}
    return recipe.over(**names)


def traced(result: Result) -> bytes:
    """The recordings that a run has, as a ZIP file: a folder for each, which `Trace.load` opens.

    Raises UsageError where nothing was recorded.
    """
    if not result.traces:
        raise UsageError("no tensor was looked at yet - open a box first")
    held = io.BytesIO()
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(held, "w") as archive:
        for (name, place), trace in result.traces.items():
            folder = f"{name}-{place}" if place is not None else name
            for file in sorted(trace.save(Path(scratch) / folder).iterdir()):
                archive.write(file, f"{folder}/{file.name}")
    return held.getvalue()
