"""What is asked of a model to see whether a map tells the truth: scenes, their words, and the same
scenes with one word swapped.

A scene's plain sentence is the prompt. Where the picture shows what was asked for, its own objects are
the masks: those of the picture that was made, as the oracle reads it, not of the scene as it would
have been rendered.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.scenes import oracle
from sd_scratch.scenes.captions import full_caption
from sd_scratch.scenes.graph import COLOURS, SHAPES, SIZES, Scene, generator, sample_scene
from sd_scratch.text.encoding import Word

SEED = 930  # of scenes that no training sees
SWAP_STREAM = 77  # swapped words are drawn from other random numbers than the scenes
NOUN, COLOUR, SIZE, BACKGROUND = KINDS = ("noun", "colour", "size", "background")
FIELDS = {NOUN: "shape", COLOUR: "colour", SIZE: "size"}  # of an object
CHOICES = {NOUN: SHAPES, COLOUR: tuple(COLOURS), SIZE: tuple(SIZES), BACKGROUND: tuple(COLOURS)}


@dataclass(frozen=True)
class Slot:
    """A place in the plain sentence: the noun, colour or size of object number `item`, or the
    background's colour, for which `item` is -1."""

    kind: str
    item: int


@dataclass(frozen=True)
class Target:
    """A word that is mapped: `nth` of those that read like it, `swapped` the prompt with another
    of its kind in its place."""

    slot: Slot
    text: str
    nth: int
    swapped: str


@dataclass(frozen=True)
class Case:
    """One picture to be made, and the words of its prompt that are mapped.

    Attributes:
        scene: what the prompt describes: one object, or two of different colours.
        targets: a noun, and one other word.
        others: a word beside each target, whose map serves as a baseline for the target's.
    """

    index: int
    scene: Scene
    prompt: str
    seed: int
    targets: tuple[Target, ...]
    others: tuple[Target, ...]

    def word(self, prompt: Prompt, target: Target) -> Word:
        return prompt.word(target.text, target.nth)


@dataclass(frozen=True, eq=False)
class Masks:
    """What the oracle found in a picture: the background, and each asked object, None where it is not
    there; ``[S, S]`` of bool."""

    objects: tuple[Tensor | None, ...]
    background: Tensor | None

    def of(self, slot: Slot) -> Tensor | None:
        """Where a word's own thing is."""
        return self.background if slot.kind == BACKGROUND else self.objects[slot.item]

    def beside(self, slot: Slot) -> Tensor | None:
        """Where the other object of two is, for a word of one of them."""
        if slot.kind == BACKGROUND or len(self.objects) != 2:
            return None
        return self.objects[1 - slot.item]


def make_cases(count: int, first_seed: int = 0) -> list[Case]:
    """Fixed scenes, every second one with two objects; fewer are a part of more. The noise of scene i
    has the seed `first_seed` + i."""
    return [_case(index, first_seed + index) for index in range(count)]


def _case(index: int, seed: int) -> Case:
    scene = sample_scene(SEED, index, ("one", "two")[index % 2])
    turn = index // 2
    item = turn % len(scene.objects)  # so that first and second objects are asked for equally often
    seconds = [Slot(COLOUR, item), Slot(SIZE, item), Slot(BACKGROUND, -1)]
    if len(scene.objects) == 2:
        seconds.append(Slot(NOUN, 1 - item))
        turn //= 2
    chosen = [Slot(NOUN, item), seconds[turn % len(seconds)]]
    rng = generator(SEED, index, SWAP_STREAM)
    others = []
    for slot in chosen:
        # The other object's word of the same kind where there is one: a map should know them apart.
        elsewhere = [s for s in slots(scene) if s.kind == slot.kind and s != slot]
        rest = [s for s in slots(scene) if s.kind != slot.kind]
        pool = elsewhere or rest
        others.append(pool[int(rng.integers(len(pool)))])
    return Case(
        index,
        scene,
        full_caption(scene),
        seed,
        tuple(_target(scene, slot, rng) for slot in chosen),
        tuple(_target(scene, slot, rng) for slot in others),
    )


def slots(scene: Scene) -> list[Slot]:
    """The words of a plain sentence that say something of the picture, in their order."""
    items = [Slot(k, i) for i in range(len(scene.objects)) for k in (SIZE, COLOUR, NOUN)]
    return [*items, Slot(BACKGROUND, -1)]


def said(scene: Scene, slot: Slot) -> str:
    """The word that stands in a slot."""
    if slot.kind == BACKGROUND:
        return scene.background
    return str(getattr(scene.objects[slot.item], FIELDS[slot.kind]))


def _target(scene: Scene, slot: Slot, rng: np.random.Generator) -> Target:
    text = said(scene, slot)
    before = slots(scene)[: slots(scene).index(slot)]
    nth = 1 + sum(said(scene, other) == text for other in before)
    # Another word of its kind that the sentence does not have yet: no two things become alike.
    taken = {said(scene, other) for other in slots(scene)} if slot.kind != SIZE else {text}
    words = [word for word in CHOICES[slot.kind] if word not in taken]
    return Target(slot, text, nth, full_caption(_with(scene, slot, str(rng.choice(words)))))


def _with(scene: Scene, slot: Slot, text: str) -> Scene:
    """The scene with another word in a slot."""
    if slot.kind == BACKGROUND:
        return replace(scene, background=text)
    objects, other = list(scene.objects), dict[str, Any]({FIELDS[slot.kind]: text})
    objects[slot.item] = replace(objects[slot.item], **other)
    return replace(scene, objects=tuple(objects))


def read_masks(pictures: Tensor, scenes: Sequence[Scene]) -> list[Masks]:
    """The masks of pictures ``[B, 3, S, S]`` of colours 0..1. An object is there where the oracle sees
    one of its colour and shape; the size may be another."""
    return [
        _masks(reading, scene)
        for reading, scene in zip(oracle.read(pictures * 2 - 1), scenes, strict=True)
    ]


def _masks(reading: oracle.Reading, scene: Scene) -> Masks:
    found: list[Tensor | None] = []
    for item in scene.objects:
        # Several that fit: the largest, which comes first.
        fits = [
            read.mask > 0.5
            for read in reading.objects
            if read.colour == item.colour and read.shape == item.shape
        ]
        found.append(fits[0] if fits else None)
    background = None
    if reading.background == scene.background and reading.objects:
        background = torch.stack([read.mask for read in reading.objects]).amax(dim=0) < 0.5
    return Masks(tuple(found), background)
