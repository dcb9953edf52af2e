"""Recipes as ComfyUI and InvokeAI store them in a picture.

Text from strangers: every value's type and range is checked, and nothing that it names is opened.
"""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from sd_scratch.diffusion.sampler_names import comfy_schedule, find_sampler
from sd_scratch.errors import ScratchError
from sd_scratch.json_file import Fields, parse_json
from sd_scratch.limits import CLIP_SKIP, GUIDANCE, LORA_SCALE, SEED, SIDE, STEPS
from sd_scratch.pipeline.adapters import LoraUse
from sd_scratch.pipeline.dialects import DIALECTS
from sd_scratch.pipeline.recipe import Recipe

COMFY, INVOKE = "prompt", "invokeai_metadata"  # keywords

QUIET = {"VAEDecode", "SaveImage", "PreviewImage"}  # nodes that make no other picture
PARTS = ("model", "clip")
LONGEST_CHAIN = 100  # nodes

Read = tuple[Recipe, tuple[str, ...]]
"""A recipe, and what it has no place for."""


def recipe_from_comfy(text: str, where: str) -> Read:
    """The recipe in ComfyUI's graph, where that is a plain chain: a checkpoint, LoRAs, two texts, an
    empty latent and one KSampler. Raises ScratchError for another graph."""
    return _Graph(parse_json(text.encode(), where), where).read()


class _Graph:
    """Nodes by their numbers; an input is a value, or ``[number, output]`` of another node."""

    def __init__(self, nodes: dict[str, Any], where: str) -> None:
        self.where = where
        self.nodes = {key: node for key, node in nodes.items() if _is_node(node)}
        self.seen: set[str] = set()

    def read(self) -> Read:
        samplers = [key for key, node in self.nodes.items() if node["class_type"] == "KSampler"]
        if len(samplers) != 1:
            raise self._error(f"{len(samplers)} nodes called KSampler")
        sampler = self._fields(samplers[0])
        if sampler.number("denoise", 0, 1, 1.0) != 1:
            raise self._error("a start from another picture (denoise below 1)")
        name, _ = find_sampler(sampler.words("sampler_name"))
        latent = self._fields(self._at(samplers[0], "latent_image", "EmptyLatentImage"))
        left = []
        if latent.integer("batch_size", 1, 4096) > 1:
            left.append("pictures of a batch after the first")
        scheduler = sampler.words("scheduler")
        schedule = comfy_schedule(name, scheduler)
        if schedule == "":
            left.append(f"scheduler {scheduler}")
        texts, skip = [], 1
        for end in ("positive", "negative"):
            key = self._at(samplers[0], end, "CLIPTextEncode")
            texts.append(self._fields(key).words("text"))
            skips = [
                self._fields(n) for n in self._chain(key, "clip") if self._is(n, "CLIPSetLastLayer")
            ]
            skip = -skips[0].integer("stop_at_clip_layer", -CLIP_SKIP[1], -1) if skips else 1
        chain = list(self._chain(samplers[0], "model"))
        model = self._fields(chain[-1]).words("ckpt_name")
        loras = tuple(self._lora(key) for key in chain if self._is(key, "LoraLoader"))
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
            width=latent.integer("width", *SIDE),
            height=latent.integer("height", *SIDE),
            clip_skip=skip,
            model=PurePath(model.replace("\\", "/")).stem,
            loras=loras[::-1] or None,
            **DIALECTS["comfy"].settings,
        )
        return recipe, tuple(left)

    def _lora(self, key: str) -> LoraUse:
        fields = self._fields(key)
        name = PurePath(fields.words("lora_name").replace("\\", "/")).stem
        scale, text_scale = (fields.number(f"strength_{part}", *LORA_SCALE) for part in PARTS)
        return LoraUse(name, scale, text_scale)

    def _chain(self, key: str, name: str) -> Iterator[str]:
        """The nodes that an input comes from, one behind the other, down to the checkpoint's."""
        for _ in range(LONGEST_CHAIN):
            key = self._at(key, name, "LoraLoader", "CLIPSetLastLayer", "CheckpointLoaderSimple")
            yield key
            if self._is(key, "CheckpointLoaderSimple"):
                return
        raise self._error("nodes that go round in a circle")

    def _is(self, key: str, kind: str) -> bool:
        return bool(self.nodes[key]["class_type"] == kind)

    def _at(self, key: str, name: str, *kinds: str) -> str:
        """The node that an input comes from; it has to be of one of these kinds."""
        self.seen.add(key)
        link = self.nodes[key]["inputs"].get(name)
        other = str(link[0]) if isinstance(link, list) and len(link) == 2 else ""
        if other not in self.nodes:
            raise self._error(f"no node for '{name}'")
        kind = self.nodes[other]["class_type"]
        if kind not in kinds:
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


def recipe_from_invoke(text: str, where: str) -> Read:
    """The recipe in InvokeAI's metadata, as it writes them since version 3."""
    data = {k: v for k, v in parse_json(text.encode(), where).items() if v is not None}
    fields = _Fields(data, where)
    if data.get("generation_mode", "txt2img") not in ("txt2img", "sd1_txt2img"):
        raise ScratchError(f"{where} - was not made from text alone - give the settings themselves")
    name, schedule = find_sampler(fields.words("scheduler").removesuffix("_k"))
    model = data.get("model")
    named = (model.get("name") or model.get("model_name")) if isinstance(model, dict) else None
    recipe = Recipe(
        fields.words("positive_prompt"),
        fields.words("negative_prompt") if "negative_prompt" in data else "",
        seed=fields.integer("seed", *SEED),
        steps=fields.integer("steps", *STEPS),
        sampler=name,
        schedule="karras" if fields.words("scheduler").endswith("_k") else schedule,
        guidance=fields.number("cfg_scale", *GUIDANCE),
        width=fields.integer("width", *SIDE),
        height=fields.integer("height", *SIDE),
        clip_skip=fields.integer("clip_skip", 0, CLIP_SKIP[1] - 1) + 1
        if "clip_skip" in data
        else None,
        model=named if isinstance(named, str) else None,
        rng="cpu" if data.get("rand_device", "cpu") == "cpu" else "nv",
        syntax="plain",
        text_cleaning="transformers",
    )
    read = {
        "positive_prompt",
        "negative_prompt",
        "seed",
        "steps",
        "scheduler",
        "cfg_scale",
        "width",
    }
    read |= {"height", "clip_skip", "model", "rand_device", "generation_mode", "app_version"}
    left = [
        key for key, value in data.items() if key not in read and value not in ([], {}, False, 0)
    ]
    if any(sign in recipe.prompt + recipe.negative_prompt for sign in ("+", "-", "(")):
        left.append("weights in the prompt")
    return recipe, tuple(left)
