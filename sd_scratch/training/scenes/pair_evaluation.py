"""How well a CLIP pair tells scenes apart, on pictures and captions that no training saw."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sd_scratch.checkpoints.clip import ClipModel, prepare
from sd_scratch.pictures.pixels import to_bytes
from sd_scratch.scenes.captions import full_caption, hard_negatives
from sd_scratch.scenes.evaluate import CHECK_SEED
from sd_scratch.scenes.graph import Scene, generator, sample_scene
from sd_scratch.scenes.render import render

FALSE_STREAM = 3_000
COUNT = 1024
CHOICES = 64
BATCH = 64
GATES = {"retrieval": 0.85, "false": 0.80}


@dataclass(frozen=True)
class PairRow:
    """A question, how often it was asked, and the share of right answers, 0..1: by chance, by the
    pair, and as wanted."""

    question: str
    asked: int
    chance: float
    right: float
    gate: float


def evaluate_pair(clip: ClipModel, *, count: int = COUNT) -> list[PairRow]:
    """Score a pair on `count` scenes: retrieval among 64, and captions that are wrong in one
    detail.

    The plain sentence is asked with; it names the place only against a wrong place. The last questions
    are one for each kind of detail.
    """
    scenes = [sample_scene(CHECK_SEED, i) for i in range(count)]
    images = picture_vectors(clip, scenes)
    rows = _retrieval(clip, images, [full_caption(scene) for scene in scenes])
    return rows + _falsehoods(clip, images, scenes)


@torch.no_grad()
def picture_vectors(clip: ClipModel, scenes: Sequence[Scene]) -> Tensor:
    """Unit vectors ``[B, D]`` of scenes, drawn as 8-bit pictures, as for scores."""
    side = clip.network.config.image.image_size
    parts = []
    for first in range(0, len(scenes), BATCH):
        images = render(scenes[first : first + BATCH], side).images
        pixels = to_bytes(images * 0.5 + 0.5)
        parts.append(clip.network.image_vectors(prepare(pixels, side)))
    return torch.cat(parts)


@torch.no_grad()
def text_vectors(clip: ClipModel, texts: Sequence[str]) -> Tensor:
    """Unit vectors ``[B, D]``; a text that occurs often is encoded once."""
    different = list(dict.fromkeys(texts))
    ids = torch.tensor([clip.tokenizer.encode(text).ids for text in different])
    vectors = torch.cat([clip.network.text_vectors(part) for part in torch.split(ids, 4 * BATCH)])
    place = {text: i for i, text in enumerate(different)}
    return vectors[[place[text] for text in texts]]


def _retrieval(clip: ClipModel, images: Tensor, captions: Sequence[str]) -> list[PairRow]:
    """Within groups of 64 (or one smaller group). Of equal captions either is right."""
    texts = text_vectors(clip, captions)
    size = min(CHOICES, len(captions))
    by_image, by_text = [], []
    for first in range(0, len(captions) - size + 1, size):
        here = captions[first : first + size]
        scores = images[first : first + size] @ texts[first : first + size].T
        for i, (text, image) in enumerate(zip(scores.argmax(1), scores.argmax(0), strict=True)):
            by_image.append(here[int(text)] == here[i])
            by_text.append(here[int(image)] == here[i])
    return [
        PairRow(f"its caption among {size}", len(by_image), 1 / size, _mean(by_image), GATES["retrieval"]),
        PairRow(f"its picture among {size}", len(by_text), 1 / size, _mean(by_text), GATES["retrieval"]),
    ]  # fmt: skip


def _falsehoods(clip: ClipModel, images: Tensor, scenes: Sequence[Scene]) -> list[PairRow]:
    """True captions against captions that are wrong in one detail: first against all of a
    picture's, then by kind."""
    asked: list[tuple[int, str, str, str]] = []  # scene, kind, true, false
    for i, scene in enumerate(scenes):
        for kind, false in hard_negatives(scene, generator(CHECK_SEED, i, FALSE_STREAM)).items():
            asked.append((i, kind, full_caption(scene, place=kind == "place"), false))
    numbers = [i for i, _, _, _ in asked]
    of_true = text_vectors(clip, [text for _, _, text, _ in asked])
    of_false = text_vectors(clip, [text for _, _, _, text in asked])
    better = ((of_true - of_false) * images[numbers]).sum(dim=1) > 0

    by_kind: dict[str, list[bool]] = {}
    by_scene: dict[int, list[bool]] = {}
    for (i, kind, _, _), right in zip(asked, better.tolist(), strict=True):
        by_kind.setdefault(kind, []).append(right)
        by_scene.setdefault(i, []).append(right)
    all_right = [all(answers) for answers in by_scene.values()]
    guessing = _mean([1 / (1 + len(answers)) for answers in by_scene.values()])
    gate = GATES["false"]
    return [
        PairRow("its caption above every false one", len(all_right), guessing, _mean(all_right), gate),
        *(PairRow(f"above a false {kind}", len(x), 0.5, _mean(x), gate) for kind, x in by_kind.items()),
    ]  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
