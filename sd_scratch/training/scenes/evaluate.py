"""How well a model does what it is told: pictures for fixed prompts, read back by the oracle."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sd_scratch.checkpoints import Components
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.pipeline import StableDiffusion
from sd_scratch.training.scenes import oracle
from sd_scratch.training.scenes.captions import full_caption
from sd_scratch.training.scenes.graph import SIZES, Scene, sample_scene
from sd_scratch.training.scenes.render import render

CHECK_SEED = 900  # scenes that no training sees
COUNT = 200
BATCH = 50
ATTRIBUTES = ("background", "colour", "shape", "size", "shape and colour")
"""What the plain sentence says of a scene; the place is left to the model."""
BY_SIZE = {size: f"shape and colour, {size}" for size in SIZES}


@dataclass(frozen=True)
class Row:
    """One attribute: the share, 0..1, in which it is right by guessing, on true renderings, on
    reconstructions and in generated pictures."""

    attribute: str
    chance: float
    rendered: float
    reconstructed: float
    generated: float


def evaluate_scenes(
    components: Components, *, count: int = COUNT, steps: int = 25, guidance: float | None = None
) -> list[Row]:
    """Score a model on `count` fixed scenes that no training saw: one row per attribute."""
    scenes = check_scenes(count)
    true = render(scenes, components.config.sample_size).images
    prompts = [full_caption(scene) for scene in scenes]
    made = sample_prompts(components, prompts, range(count), steps=steps, guidance=guidance)
    rendered, again, generated = (
        score_pictures(scenes, images) for images in (true, reconstruct(components.vae, true), made)
    )
    chances = oracle.CHANCE | dict.fromkeys(BY_SIZE.values(), oracle.CHANCE["shape and colour"])
    return [
        Row(name, chances[name], rendered[name], again[name], generated[name]) for name in generated
    ]


def check_scenes(count: int) -> list[Scene]:
    return [sample_scene(CHECK_SEED, i) for i in range(count)]


@torch.no_grad()
def reconstruct(vae: Autoencoder, images: Tensor) -> Tensor:
    """Pictures after the encoder (its mean) and the decoder."""
    weight = vae.post_quant_conv.weight
    parts = [vae.decode(vae.encode(part.to(weight)).mean) for part in torch.split(images, BATCH)]
    return torch.cat(parts).float()


def sample_prompts(
    components: Components,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = 25,
    guidance: float | None = None,
) -> Tensor:
    """One picture ``[B, 3, S, S]`` for each prompt with its seed, by DDIM."""
    model = StableDiffusion(components)
    images = []
    for first in range(0, len(prompts), BATCH):
        part = [model.prompt(prompt) for prompt in prompts[first : first + BATCH]]
        noise = model.noise(seeds[first : first + BATCH])
        made = model.generate(part, noise, sampler="ddim", steps=steps, guidance=guidance)
        images.append(made.decode())
    return torch.cat(images)


def score_pictures(scenes: Sequence[Scene], images: Tensor) -> dict[str, float]:
    """The share of pictures that are as the plain sentence about their scene says, by attribute; and
    shape and colour together for each size, since the size decides what is legible."""
    readings = oracle.read(images)
    figures = oracle.score(readings, scenes)
    figures = {name: figures[name] for name in ATTRIBUTES}
    for size, name in BY_SIZE.items():
        rows = [
            oracle.agreement(reading, scene)["shape and colour"]
            for reading, scene in zip(readings, scenes, strict=True)
            if scene.objects[0].size == size
        ]
        figures[name] = sum(rows) / max(1, len(rows))
    return figures
