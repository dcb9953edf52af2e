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


@dataclass(frozen=True)
class Row:
    """One attribute: how often it is right by guessing, on true renderings, on reconstructions and in
    generated pictures."""

    attribute: str
    chance: float
    rendered: float
    reconstructed: float
    generated: float


"""Shares, 0..1."""


def evaluate_scenes(
    components: Components, *, count: int = COUNT, steps: int = 25, guidance: float | None = None
) -> list[Row]:
    """Score a model on `count` fixed scenes that no training saw: one row per attribute."""
    scenes = check_scenes(count)
    side = components.config.sample_size
    true = render(scenes, side).images
    rendered = oracle.score(oracle.read(true), scenes)
    again = oracle.score(oracle.read(reconstruct(components.vae, true)), scenes)
    _, images = generate_scenes(components, CHECK_SEED, count, steps=steps, guidance=guidance)
    made = score_generated(scenes, images)
    return [
        Row(name, oracle.CHANCE[name], rendered[name], again[name], made[name])
        for name in ATTRIBUTES
    ]


def check_scenes(count: int) -> list[Scene]:
    return [sample_scene(CHECK_SEED, i) for i in range(count)]


@torch.no_grad()
def reconstruct(vae: Autoencoder, images: Tensor) -> Tensor:
    """Pictures after the encoder (its mean) and the decoder."""
    weight = vae.post_quant_conv.weight
    parts = [vae.decode(vae.encode(part.to(weight)).mean) for part in torch.split(images, BATCH)]
    return torch.cat(parts).float()


def generate_scenes(
    components: Components,
    seed: int,
    count: int,
    *,
    steps: int = 25,
    guidance: float | None = None,
) -> tuple[list[Scene], Tensor]:
    """A picture ``[B, 3, S, S]`` for the plain sentence of each scene; picture i has seed i."""
    scenes = [sample_scene(seed, i) for i in range(count)]
    prompts = [full_caption(scene) for scene in scenes]
    images = sample_prompts(components, prompts, range(count), steps=steps, guidance=guidance)
    return scenes, images


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


def score_generated(scenes: Sequence[Scene], images: Tensor) -> dict[str, float]:
    """The share of pictures in which each attribute that the sentence names is as it says."""
    figures = oracle.score(oracle.read(images), scenes)
    return {name: figures[name] for name in ATTRIBUTES}


def reconstruction_by_size(scenes: Sequence[Scene], images: Tensor) -> dict[str, float]:
    """Shape and colour both read in reconstructions, for each size: the size decides legibility."""
    readings = oracle.read(images)
    figures = {}
    for size in SIZES:
        rows = [
            oracle.agreement(reading, scene)["shape and colour"]
            for reading, scene in zip(readings, scenes, strict=True)
            if scene.objects[0].size == size
        ]
        figures[size] = sum(rows) / max(1, len(rows))
    return figures
