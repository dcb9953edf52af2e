"""How well a model does what it is told: pictures for fixed prompts, read back by the oracle."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sd_scratch.checkpoints import Components
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.networks.taesd import TinyAutoencoder
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.scenes import oracle
from sd_scratch.scenes.captions import full_caption
from sd_scratch.scenes.graph import NEW_SHAPES, RELATIONS, SHAPES, SIZES, Scene, sample_scene
from sd_scratch.scenes.render import render

CHECK_SEED = 900  # scenes that no training sees
COUNT = 500
BATCH = 50
PARTS = {
    "one object": 0.32,
    "one object, its place named": 0.16,
    "two to four alike": 0.12,
    "two objects": 0.20,
    "three objects": 0.04,
    "unseen colours of new shapes": 0.06,
    "seen colours of new shapes": 0.06,
    "unseen relation of two shapes": 0.04,
}
"""The shares of the prompts. "New shapes" are those of which some colours are held out."""
ASKED = (
    "shape and colour",
    "place",
    "count",
    "count of shapes",
    "colours there",
    "all there",
    "own colours",
    "relation",
)


@dataclass(frozen=True)
class Check:
    """A prompt, and the scene that it describes."""

    part: str
    scene: Scene
    prompt: str


@dataclass(frozen=True)
class Row:
    """What is asked for, the number of pictures that it is asked of, and the share, 0..1, that have it:
    by chance (true pictures of other prompts; of relations one in four), in true renderings, in reconstructions and in generated
    pictures."""

    part: str
    attribute: str
    count: int
    chance: float
    rendered: float
    reconstructed: float
    generated: float


def evaluate_scenes(
    components: Components,
    *,
    count: int = COUNT,
    alike: bool = False,
    seeds: int = 2,
    steps: int | None = None,
    guidance: float | None = None,
) -> list[Row]:
    """Score a model on `count` fixed prompts with `seeds` noises each: one row per thing asked for."""
    checks = make_checks(count, alike=alike)
    true = render([check.scene for check in checks], components.config.sample_size).images
    again = reconstruct(components.vae, true)
    every = [check for check in checks for _ in range(seeds)]
    made = sample_prompts(
        components,
        [check.prompt for check in every],
        range(len(every)),
        steps=steps,
        guidance=guidance,
    )
    readings = oracle.read(true)
    chance = score(checks, _of_others(checks, readings))
    rendered, reconstructed = score(checks, readings), score(checks, oracle.read(again))
    generated = score(every, oracle.read(made))
    return [
        Row(
            *name,
            number,
            1 / len(RELATIONS) if name[1] == "relation" else chance[name][0],
            rendered[name][0],
            reconstructed[name][0],
            share,
        )
        for name, (share, number) in generated.items()
    ]


def make_checks(count: int, *, alike: bool = False) -> list[Check]:
    """Fixed prompts, the parts in their shares, or as many of each: fewer are a part of more."""
    shares = dict.fromkeys(PARTS, 1 / len(PARTS)) if alike else PARTS
    return [
        check
        for part, share in shares.items()
        for check in itertools.islice(_checks(part), max(1, round(share * count)))
    ]


def _checks(part: str) -> Iterator[Check]:
    """All prompts of one part, without end."""
    seed = CHECK_SEED + list(PARTS).index(part)
    for i in itertools.count():
        place = False
        if part.startswith("one object"):
            scene, place = sample_scene(seed, i, "one"), "place" in part
        elif part == "two to four alike":
            scene = sample_scene(seed, i, "count")
        elif part == "two objects":
            scene = sample_scene(seed, i, "two")
        elif part == "three objects":
            scene = sample_scene(seed, i, "three")
        elif part == "unseen colours of new shapes":
            scene = sample_scene(seed, i, "one", unseen="pair")
        elif part == "unseen relation of two shapes":
            scene = sample_scene(seed, i, "two", unseen="triple")
        else:
            scene = sample_scene(seed, i, "one")
            if scene.objects[0].shape not in NEW_SHAPES:
                continue
        yield Check(part, scene, full_caption(scene, place=place))


def score(
    checks: Sequence[Check], readings: Sequence[oracle.Reading]
) -> dict[tuple[str, str], tuple[float, int]]:
    """(Part, attribute) -> the share of pictures that have it right, and of how many.

    Where one object is described, shape and colour together are also counted for each size and each
    shape, since both decide what is legible; of the other parts only what sets them apart counts.
    """
    answers: dict[tuple[str, str], list[bool]] = {}
    for check, reading in zip(checks, readings, strict=True):
        right = oracle.agreement(reading, check.scene)
        if check.part == "one object":
            item = check.scene.objects[0]
            for name in (item.size, item.shape):
                right[f"shape and colour, {name}"] = right["shape and colour"]
        else:
            right = {name: right[name] for name in ASKED if name in right}
        if "place" not in check.part:
            right.pop("place", None)
        for name, is_right in right.items():
            answers.setdefault((check.part, name), []).append(is_right)
    order = {f"shape and colour, {name}": i for i, name in enumerate((*SIZES, *SHAPES), start=1)}
    parts = list(PARTS)
    names = sorted(answers, key=lambda name: (parts.index(name[0]), order.get(name[1], 0)))
    return {name: (sum(answers[name]) / len(answers[name]), len(answers[name])) for name in names}


def interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, 0..1, that was found in `count` pictures."""
    z = 1.96
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def _of_others(checks: Sequence[Check], readings: Sequence[oracle.Reading]) -> list[oracle.Reading]:
    """For each prompt the reading of another one's picture, of the same part."""
    rows: dict[str, list[int]] = {}
    for i, check in enumerate(checks):
        rows.setdefault(check.part, []).append(i)
    other = {a: b for part in rows.values() for a, b in zip(part, part[1:] + part[:1], strict=True)}
    return [readings[other[i]] for i in range(len(checks))]


@torch.no_grad()
def reconstruct(vae: Autoencoder | TinyAutoencoder, images: Tensor) -> Tensor:
    """Pictures after the encoder (its mean) and the decoder."""
    weight = next(vae.parameters())
    parts = [vae.decode(vae.encode(part.to(weight)).mean) for part in torch.split(images, BATCH)]
    return torch.cat(parts).float()


def sample_prompts(
    components: Components,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int | None = None,
    guidance: float | None = None,
) -> Tensor:
    """One picture ``[B, 3, S, S]`` for each prompt with its seed, by DDIM; in the model's own
    number of steps, where none is named."""
    model = StableDiffusion(components)
    images = []
    for first in range(0, len(prompts), BATCH):
        part = [model.prompt(prompt) for prompt in prompts[first : first + BATCH]]
        noise = model.noise(seeds[first : first + BATCH])
        made = model.generate(part, noise, sampler="ddim", steps=steps, guidance=guidance)
        images.append(made.decode())
    return torch.cat(images)
