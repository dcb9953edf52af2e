"""The recipe in the graph that ComfyUI stores in a picture, if that is a plain chain.

The text is untrusted: every value's type and range is checked, and nothing that it names is opened.
"""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from sd_scratch.dialects.conventions import DIALECTS
from sd_scratch.dialects.hires import CELL, LATENT_METHODS, Size, scale_to
from sd_scratch.diffusion.sampler_names import DRAWING, comfy_sampler, comfy_schedule
from sd_scratch.errors import ScratchError
from sd_scratch.json_file import Fields, parse_json
from sd_scratch.limits import CLIP_SKIP, GUIDANCE, LORA_SCALE, PAG, SEED, SIDE, STEPS
from sd_scratch.pipeline.adapters import LoraUse
from sd_scratch.pipeline.recipe import Recipe

COMFY = "prompt"  # keyword

QUIET = {"VAEDecode", "VAEDecodeTiled", "SaveImage", "PreviewImage"}  # make no other picture
CHECKPOINTS = ("CheckpointLoaderSimple", "CheckpointLoader")
LORAS = ("LoraLoader", "LoraLoaderModelOnly")
SKIP, DISCRETE = "CLIPSetLastLayer", "ModelSamplingDiscrete"
PERTURBED = "PerturbedAttentionGuidance"
SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
LINKS = ("model", "positive", "negative")
ENLARGING = ("LatentUpscale", "LatentUpscaleBy", "VAEEncode")
IMAGE_METHODS = {"lanczos": "lanczos", "nearest-exact": "nearest"}
PREDICTIONS = {"eps": "epsilon", "v_prediction": "v_prediction", "x0": "sample"}
LONGEST_CHAIN = 100  # nodes


def recipe_from_comfy(text: str, where: str) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe in ComfyUI's graph, and the unsupported settings.

    Raises ScratchError unless that is a checkpoint, LoRAs, two texts, an empty latent or a picture, and one
    sampler; or two with an enlargement between them.
    """
    return _Graph(parse_json(text.encode(), where), where).read()


class _Graph:
    """Nodes by their numbers; an input is a value, or ``[number, output]`` of another node."""

    def __init__(self, nodes: dict[str, Any], where: str) -> None:
        self.where = where
        self.nodes = {key: node for key, node in nodes.items() if _is_node(node)}
        self.seen: set[str] = set()
        self.left: list[str] = []
        for key in [key for key in self.nodes if self._is(key, *SAMPLERS[1:])]:
            self.nodes[key] = {"class_type": SAMPLERS[0], "inputs": self._as_ksampler(key)}

    def read(self) -> tuple[Recipe, tuple[str, ...]]:
        key, second = self._passes()
        sampler = self._fields(key)
        written, scheduler = sampler.words("sampler_name"), sampler.words("scheduler")
        name, options = comfy_sampler(written)
        schedule = comfy_schedule(name, scheduler)
        if schedule == "":
            self.left.append(f"scheduler {scheduler}")
        if name in DRAWING:
            self.left.append(f"the noise that {written} adds (another stream's)")
        texts, chains = zip(
            *(self._text(key, end) for end in ("positive", "negative")), strict=True
        )
        begin = self._latent(key, sampler, bool(second))
        skips = [self._skip(chain) for chain in chains]
        if skips[0] != skips[1]:
            self.left.append(f"a clip skip of {skips[1]} for the negative prompt alone")
        links = list(self._chain(key, "model", *LORAS, DISCRETE, PERTURBED))
        if any(chain[-1] != links[-1] for chain in chains):
            self.left.append("the text encoder of another checkpoint")
        pag = sum(self._fields(n).number("scale", *PAG) for n in links if self._is(n, PERTURBED))
        size = begin.get("width", 0), begin.get("height", 0)
        recipe = Recipe(
            texts[0],
            texts[1],
            seed=sampler.integer("seed", *SEED),
            steps=sampler.integer("steps", *STEPS),
            sampler=name,
            sampler_options=options,
            schedule=schedule or None,
            guidance=sampler.number("cfg", *GUIDANCE),
            pag=pag or None,
            clip_skip=skips[0],
            model=_stem(self._fields(links[-1]).words("ckpt_name")),
            vae=self._vae(links[-1]),
            loras=self._loras(links, chains) or None,
            **begin,
            **(self._hires(key, second, size) if second else {}),
            **self._prediction(links),
            **DIALECTS["comfy"].settings,
        )
        others = {n["class_type"] for key, n in self.nodes.items() if key not in self.seen}
        return recipe, (*self.left, *(f"node {kind}" for kind in sorted(others - QUIET)))

    # The sampler -----------------------------------------------------------------------------

    def _as_ksampler(self, key: str) -> dict[str, Any]:
        """Another node that samples, with a KSampler's inputs."""
        node, inputs = self.nodes[key], dict(self.nodes[key]["inputs"])
        if node["class_type"] == "SamplerCustomAdvanced":
            guider = self._at(key, "guider", "CFGGuider")
            inputs |= self.nodes[guider]["inputs"]
            inputs |= self.nodes[self._at(key, "noise", "RandomNoise")]["inputs"]
        if "sigmas" in inputs:
            inputs |= self.nodes[self._at(key, "sampler", "KSamplerSelect")]["inputs"]
            inputs |= self.nodes[self._at(key, "sigmas", "BasicScheduler")]["inputs"]
        fields = self._fields(key, inputs)
        if "end_at_step" in inputs:
            first, last = (fields.integer(f"{end}_at_step", 0, 1 << 31) for end in ("start", "end"))
            if first or last < fields.integer("steps", *STEPS):
                raise self._error(f"a {node['class_type']} that takes a part of the steps")
        if fields.data.get("add_noise", True) not in (True, "enable"):
            raise self._error(f"a {node['class_type']} that adds no noise")
        return inputs | {"seed": inputs.get("noise_seed")}

    def _passes(self) -> tuple[str, str | None]:
        """The sampler of the first pass and of the second, if there is one."""
        samplers = [key for key in self.nodes if self._is(key, SAMPLERS[0])]
        if len(samplers) == 2:
            for first, second in (samplers, samplers[::-1]):
                before = self._at(second, "latent_image")
                encodes = self._is(before, "VAEEncode")
                of_file = encodes and self._is(self._at(before, "pixels"), "LoadImage")
                if self._is(before, *ENLARGING) and not of_file:
                    return first, second
        if len(samplers) != 1:
            raise self._error(f"{len(samplers)} nodes called KSampler")
        return samplers[0], None

    def _latent(self, key: str, sampler: Fields, two_passes: bool) -> dict[str, Any]:
        """The size of an empty latent; or the strength of a run from a picture."""
        strength = sampler.number("denoise", 0, 1, 1.0)
        begun = self._at(key, "latent_image", "EmptyLatentImage", "VAEEncode")
        if self._is(begun, "VAEEncode"):
            self._at(begun, "pixels", "LoadImage")
            if two_passes:
                raise self._error("a start from another picture and a second pass")
            return {"strength": strength}
        if strength != 1:
            raise self._error("a start from an empty picture (denoise below 1)")
        latent = self._fields(begun)
        if latent.integer("batch_size", 1, 4096, 1) > 1:
            self.left.append("pictures of a batch after the first")
        sides = {side: latent.integer(side, *SIDE) for side in ("width", "height")}
        return {side: number // CELL * CELL for side, number in sides.items()}

    # What it is given ------------------------------------------------------------------------

    def _text(self, key: str, end: str) -> tuple[str, list[str]]:
        """A prompt, and the nodes before its encoder."""
        node = self._at(key, end, "CLIPTextEncode")
        return self._fields(node).words("text"), list(self._chain(node, "clip", "LoraLoader", SKIP))

    def _skip(self, chain: list[str]) -> int:
        skips = [self._fields(key) for key in chain if self._is(key, SKIP)]
        return -skips[0].integer("stop_at_clip_layer", -CLIP_SKIP[1], -1) if skips else 1

    def _loras(self, links: list[str], chains: tuple[list[str], ...]) -> tuple[LoraUse, ...]:
        """The LoRAs of the U-Net and of the texts, each with the strength that it has there."""
        keys = [*links[::-1], *(key for key in chains[0][::-1] if key not in links)]
        uses = []
        for key in (key for key in keys if self._is(key, *LORAS)):
            fields = self._fields(key)
            texts = [key in chain for chain in chains]
            if texts[0] != texts[1]:
                self.left.append("a LoRA for one of the two texts")
            uses.append(
                LoraUse(
                    _stem(fields.words("lora_name")),
                    fields.number("strength_model", *LORA_SCALE) if key in links else 0.0,
                    fields.number("strength_clip", *LORA_SCALE) if texts[0] else 0.0,
                )
            )
        return tuple(uses)

    def _vae(self, checkpoint: str) -> str | None:
        """The name of another VAE than the checkpoint's."""
        decoders = (key for key in self.nodes if self._is(key, "VAEDecode", "VAEDecodeTiled"))
        loaders = {self._at(key, "vae", "VAELoader", *CHECKPOINTS) for key in decoders}
        names = sorted(
            self._fields(key).words("vae_name" if self._is(key, "VAELoader") else "ckpt_name")
            for key in loaders - {checkpoint}
        )
        return _stem(names[0]) if names else None

    def _prediction(self, links: list[str]) -> dict[str, Any]:
        for key in (key for key in links if self._is(key, DISCRETE)):
            fields = self._fields(key)
            sampling = fields.words("sampling")
            if sampling not in PREDICTIONS:
                raise self._error(f"a node {DISCRETE} of {sampling[:20]}")
            zero = fields.flag("zsnr", False) or None
            return {"prediction": PREDICTIONS[sampling], "zero_snr": zero}
        return {}

    def _hires(self, first: str, second: str, size: Size) -> dict[str, Any]:
        """The second pass: the first one's latent or picture, larger, and a KSampler that differs from the
        first only in steps and strength."""
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
        self.left += [
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

    # The graph -------------------------------------------------------------------------------

    def _chain(self, key: str, name: str, *kinds: str) -> Iterator[str]:
        """The chain of nodes before an input, down to the checkpoint's."""
        for _ in range(LONGEST_CHAIN):
            key = self._at(key, name, *kinds, *CHECKPOINTS)
            yield key
            if self._is(key, *CHECKPOINTS):
                return
        raise self._error("nodes that go round in a circle")

    def _is(self, key: str, *kinds: str) -> bool:
        return self.nodes[key]["class_type"] in kinds

    def _at(self, key: str, name: str, *kinds: str) -> str:
        """The node before an input; it must be of one of these kinds, if any are named."""
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

    def _fields(self, key: str, inputs: dict[str, Any] | None = None) -> Fields:
        """A node's inputs, or these; a node with a single value gives that value."""
        inputs = self.nodes[key]["inputs"] if inputs is None else inputs
        values = {name: self._value(value) for name, value in inputs.items()}
        return Fields(values, f"{self.where}, node {key[:20]}")

    def _value(self, value: Any) -> Any:
        node = self.nodes.get(str(value[0])) if isinstance(value, list) and value else None
        held = {} if node is None else node["inputs"]
        values = [held[name] for name in held if name != "control_after_generate"]
        if len(values) != 1 or isinstance(values[0], list | dict):
            return value
        self.seen.add(str(value[0]))
        return values[0]

    def _error(self, what: str) -> ScratchError:
        return ScratchError(
            f"{self.where} - ComfyUI's graph has {what}: it is not the plain chain that can be repeated"
            " here - give the prompt and settings themselves"
        )


def _stem(name: str) -> str:
    return PurePath(name.replace("\\", "/")).stem


def _is_node(node: Any) -> bool:
    return (
        isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs"), dict)
    )
