"""Recipes as ComfyUI and InvokeAI store them in a picture.

Text from strangers: every value's type and range is checked, and nothing that it names is opened.
"""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from sd_scratch.diffusion.sampler_names import comfy_schedule, find_sampler
from sd_scratch.errors import ScratchError
from sd_scratch.json_file import Fields, parse_json
from sd_scratch.limits import CLIP_SKIP, GUIDANCE, HIRES_SCALE, LORA_SCALE, SEED, SIDE, STEPS
from sd_scratch.pipeline.adapters import LoraUse
from sd_scratch.pipeline.dialects import DIALECTS
from sd_scratch.pipeline.other_hires import CELL, Size, scale_to
from sd_scratch.pipeline.recipe import Recipe

COMFY, INVOKE = "prompt", "invokeai_metadata"  # keywords

QUIET = {"VAEDecode", "SaveImage", "PreviewImage"}  # nodes that make no other picture
PARTS = ("model", "clip")
SKIP = "CLIPSetLastLayer"
LINKS = ("model", "positive", "negative")
ENLARGING = ("LatentUpscale", "LatentUpscaleBy", "VAEEncode")
LATENT_METHODS = {
    "bilinear": "latent",
    "bicubic": "latent-bicubic",
    "nearest-exact": "latent-nearest-exact",
    "nearest": "latent-nearest",
}
IMAGE_METHODS = {"lanczos": "lanczos", "nearest-exact": "nearest"}
LONGEST_CHAIN = 100  # nodes
INVOKE_READ = {
    *("positive_prompt", "negative_prompt", "seed", "steps", "scheduler", "cfg_scale", "width"),
    *("height", "clip_skip", "model", "rand_device", "generation_mode", "app_version"),
}

Read = tuple[Recipe, tuple[str, ...]]
"""A recipe, and what it has no place for."""


def recipe_from_comfy(text: str, where: str) -> Read:
    """The recipe in ComfyUI's graph, where that is a plain chain: a checkpoint, LoRAs, two texts, an empty
    latent and one KSampler, or two with an enlargement between them. Raises ScratchError for another
    graph."""
    return _Graph(parse_json(text.encode(), where), where).read()


class _Graph:
    """Nodes by their numbers; an input is a value, or ``[number, output]`` of another node."""

    def __init__(self, nodes: dict[str, Any], where: str) -> None:
        self.where = where
        self.nodes = {key: node for key, node in nodes.items() if _is_node(node)}
        self.seen: set[str] = set()

    def read(self) -> Read:
        (key, second), left = self._passes(), list[str]()
        sampler = self._fields(key)
        if sampler.number("denoise", 0, 1, 1.0) != 1:
            raise self._error("a start from another picture (denoise below 1)")
        name, _ = find_sampler(sampler.words("sampler_name"))
        latent = self._fields(self._at(key, "latent_image", "EmptyLatentImage"))
        if latent.integer("batch_size", 1, 4096) > 1:
            left.append("pictures of a batch after the first")
        scheduler = sampler.words("scheduler")
        schedule = comfy_schedule(name, scheduler)
        if schedule == "":
            left.append(f"scheduler {scheduler}")
        texts, skip = [], 1
        for end in ("positive", "negative"):
            text = self._at(key, end, "CLIPTextEncode")
            texts.append(self._fields(text).words("text"))
            chain = [self._fields(n) for n in self._chain(text, "clip") if self._is(n, SKIP)]
            skip = -chain[0].integer("stop_at_clip_layer", -CLIP_SKIP[1], -1) if chain else 1
        links = list(self._chain(key, "model"))
        model = self._fields(links[-1]).words("ckpt_name")
        loras = tuple(self._lora(n) for n in links if self._is(n, "LoraLoader"))
        size = latent.integer("width", *SIDE), latent.integer("height", *SIDE)
        larger = self._hires(key, second, size, left) if second else {}
        others = {n["class_type"] for key, n in self.nodes.items() if key not in self.seen}
        left += [f"node {kind}" for kind in sorted(others - QUIET)]
        recipe = Recipe(
            texts[0],
            texts[1],
            seed=sampler.integer("seed", *SEED),
            steps=sampler.integer("steps", *STEPS),
            sampler=name,
            schedule=schedule or None,
            guidance=sampler.number("cfg", *GUIDANCE),
            width=size[0],
            height=size[1],
            clip_skip=skip,
            model=PurePath(model.replace("\\", "/")).stem,
            loras=loras[::-1] or None,
            **larger,
            **DIALECTS["comfy"].settings,
        )
        return recipe, tuple(left)

    def _passes(self) -> tuple[str, str | None]:
        """The KSampler of the first pass and of the second, if there is one."""
        samplers = [key for key in self.nodes if self._is(key, "KSampler")]
        if len(samplers) == 2:
            for first, second in (samplers, samplers[::-1]):
                if self._is(self._at(second, "latent_image"), *ENLARGING):
                    return first, second
        if len(samplers) != 1:
            raise self._error(f"{len(samplers)} nodes called KSampler")
        return samplers[0], None

    def _hires(self, first: str, second: str, size: Size, left: list[str]) -> dict[str, Any]:
        """The second pass: the first one's latent or picture, larger, and a KSampler that differs from the
        first in its steps and its strength alone."""
        node = self._at(second, "latent_image", *ENLARGING)
        latents = self._is(node, "LatentUpscale", "LatentUpscaleBy")
        if latents:
            way = self._fields(node)
        else:
            scaled = self._at(node, "pixels", "ImageScale", "ImageScaleBy")
            way, node = self._fields(scaled), self._at(scaled, "image", "VAEDecode")
        if self._at(node, "samples", "KSampler") != first:
            raise self._error("a second pass that does not go on from the first")
        target: Size
        if "scale_by" in way.data:
            by, one = way.number("scale_by", 0.01, 8), CELL if latents else 1
            target = round(size[0] // one * by) * one, round(size[1] // one * by) * one
        else:
            target = way.integer("width", *SIDE), way.integer("height", *SIDE)
        scale = scale_to(size, target)
        written = way.words("upscale_method")
        method = (LATENT_METHODS if latents else IMAGE_METHODS).get(written)
        if scale is None or method is None:
            raise self._error(
                f"a second pass of {target[0]}x{target[1]} by {written[:20]}, which is not here"
            )
        own, other = self._fields(first), self._fields(second)
        left += [
            f"{key} of the second pass (both passes have one here)"
            for key in ("seed", "cfg", "sampler_name", "scheduler", *LINKS)
            if own.data.get(key) != other.data.get(key)
        ]
        return {
            "hires_scale": scale,
            "hires_method": method,
            "hires_strength": other.number("denoise", 0, 1, 1.0),
            "hires_steps": other.integer("steps", *STEPS),
        }

    def _lora(self, key: str) -> LoraUse:
        fields = self._fields(key)
        name = PurePath(fields.words("lora_name").replace("\\", "/")).stem
        scale, text_scale = (fields.number(f"strength_{part}", *LORA_SCALE) for part in PARTS)
        return LoraUse(name, scale, text_scale)

    def _chain(self, key: str, name: str) -> Iterator[str]:
        """The nodes that an input comes from, one behind the other, down to the checkpoint's."""
        for _ in range(LONGEST_CHAIN):
            key = self._at(key, name, "LoraLoader", SKIP, "CheckpointLoaderSimple")
            yield key
            if self._is(key, "CheckpointLoaderSimple"):
                return
        raise self._error("nodes that go round in a circle")

    def _is(self, key: str, *kinds: str) -> bool:
        return self.nodes[key]["class_type"] in kinds

    def _at(self, key: str, name: str, *kinds: str) -> str:
        """The node that an input comes from; it has to be of one of these kinds, if any are named."""
        self.seen.add(key)
        link = self.nodes[key]["inputs"].get(name)
        other = str(link[0]) if isinstance(link, list) and len(link) == 2 else ""
        if other not in self.nodes:
            raise self._error(f"no node for '{name}'")
        kind = self.nodes[other]["class_type"]
        if kinds and kind not in kinds:
            raise self._error(f"a node {kind[:40]} for '{name}'")
        self.seen.add(other)
        return other

    def _fields(self, key: str) -> "_Fields":
        return _Fields(self.nodes[key]["inputs"], f"{self.where}, node {key[:20]}")

    def _error(self, what: str) -> ScratchError:
        return ScratchError(
            f"{self.where} - ComfyUI's graph has {what}: it is not the plain chain that can be repeated"
            " here - give the prompt and settings themselves"
        )


class _Fields(Fields):
    def words(self, key: str) -> str:
        value = self.data.get(key)
        if not isinstance(value, str):
            self.fail(key, "a text")
        return value


def _is_node(node: Any) -> bool:
    return (
        isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs"), dict)
    )


def recipe_from_invoke(text: str, where: str, size: Size | None = None) -> Read:
    """The recipe in InvokeAI's metadata, as it writes them since version 3, of a picture of that size."""
    data = {k: v for k, v in parse_json(text.encode(), where).items() if v is not None}
    fields = _Fields(data, where)
    if data.get("generation_mode", "txt2img") not in ("txt2img", "sd1_txt2img"):
        raise ScratchError(f"{where} - was not made from text alone - give the settings themselves")
    name, schedule = find_sampler(fields.words("scheduler").removesuffix("_k"))
    model = data.get("model")
    named = (model.get("name") or model.get("model_name")) if isinstance(model, dict) else None
    passes, left = _invoke_passes(fields, size)
    recipe = Recipe(
        fields.words("positive_prompt"),
        fields.words("negative_prompt") if "negative_prompt" in data else "",
        seed=fields.integer("seed", *SEED),
        steps=fields.integer("steps", *STEPS),
        sampler=name,
        schedule="karras" if fields.words("scheduler").endswith("_k") else schedule,
        guidance=fields.number("cfg_scale", *GUIDANCE),
        clip_skip=fields.integer("clip_skip", 0, CLIP_SKIP[1] - 1) + 1
        if "clip_skip" in data
        else None,
        model=named if isinstance(named, str) else None,
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
    if any(sign in recipe.prompt + recipe.negative_prompt for sign in ("+", "-", "(")):
        left.append("weights in the prompt")
    return recipe, tuple(left)


def _invoke_passes(fields: Fields, size: Size | None) -> tuple[dict[str, Any], list[str]]:
    """The size and the second pass, and what of it cannot be repeated. The width and height that are stored
    are those of the first pass in some versions, of the finished picture in others."""
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
