"""A small classifier that reads pictures of one object, to check the oracle. It has learnt what the
oracle does by rules, and shares no code with it.

Where both read the same in a generated picture, the picture shows it. Where they differ, one of
them is wrong, or the picture shows neither.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.checkpoints import Components
from sd_scratch.checkpoints.pixel_model import build_classifier, save_classifier
from sd_scratch.checkpoints.shipped import weights_folder
from sd_scratch.config import ClassifierConfig
from sd_scratch.networks.classifier import Classifier
from sd_scratch.scenes import oracle
from sd_scratch.scenes.captions import full_caption
from sd_scratch.scenes.evaluate import CHECK_SEED, sample_prompts
from sd_scratch.scenes.graph import COLOURS, SHAPES, SIZES, Scene, SceneObject, sample_scene
from sd_scratch.scenes.render import render
from sd_scratch.training.scenes.augment import BLUR, NOISE, SHIFT, draw_wear, worsen
from sd_scratch.training.settings import TrainConfig
from sd_scratch.training.task import Task
from sd_scratch.training.team import Team

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "background": tuple(COLOURS),
    "colour": tuple(COLOURS),
    "shape": tuple(SHAPES),
    "size": tuple(SIZES),
}
"""What the classifier says of a picture: one of these each."""

JUDGE = ClassifierConfig(
    in_channels=3,
    num_classes=sum(map(len, ATTRIBUTES.values())),
    sample_size=64,
    block_out_channels=(16, 32, 64, 96),
    norm_num_groups=8,
)
JUDGE_TRAINING = TrainConfig(batch=32, lr=2e-3, warmup_steps=50, ema_decay=0.99)
DATA_SEED = 4
SHIPPED = "scenes-classifier"
COUNT = 200
BATCH = 50


class SceneJudgeTask(Task):
    """Learns to tell background, colour, shape and size; it sees every picture once."""

    result = "scenes-classifier"

    def __init__(
        self, train: TrainConfig, team: Team | None = None, config: ClassifierConfig = JUDGE
    ) -> None:
        super().__init__(build_classifier(config, train.seed), train, team)
        self.config = config

    def settings(self) -> dict[str, Any]:
        return {"network": asdict(self.config), "augmentation": [BLUR, NOISE, SHIFT]}

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The sum of the four cross entropies."""
        side, count = self.config.sample_size, self.train.batch
        wear = draw_wear(count, side, generator).share(self.team)
        numbers = self.team.share(torch.arange(step * count, (step + 1) * count))
        scenes = [sample_scene(DATA_SEED, i, "one") for i in numbers.tolist()]
        images = worsen(render(scenes, side).images.to(self.team.device), wear)
        scores = self.parallel(images.contiguous(memory_format=torch.channels_last))
        goals = labels(scenes).to(scores.device)
        loss = torch.stack(
            [F.cross_entropy(part, goals[:, i]) for i, part in enumerate(_parts(scores))]
        ).sum()
        return loss, {"loss": self.team.mean(loss)}

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(model, Classifier)
        scenes = one_object_scenes(COUNT)
        said = judge(model, render(scenes, self.config.sample_size).images)
        return {f"check {name}": share for name, share in _right(said, scenes).items()}

    def export(self, model: nn.Module, folder: Path, step: int, seconds: float) -> None:
        assert isinstance(model, Classifier)
        save_classifier(model, folder)


@dataclass(frozen=True)
class Row:
    """One attribute, in shares 0..1.

    `chance`: two that guess evenly agree; `rendered`: the classifier is right on a true rendering;
    `by_oracle`, `by_classifier`: each reads in a generated picture what was asked for; `agreement`:
    both read the same there.
    """

    attribute: str
    chance: float
    rendered: float
    by_oracle: float
    by_classifier: float
    agreement: float


def evaluate_judge(
    components: Components,
    classifier: Classifier,
    *,
    count: int = COUNT,
    steps: int | None = None,
    guidance: float | None = None,
) -> list[Row]:
    """Let oracle and classifier read pictures that a model made of `count` plain sentences."""
    scenes = one_object_scenes(count)
    true = render(scenes, classifier.config.sample_size).images
    prompts = [full_caption(scene) for scene in scenes]
    made = sample_prompts(components, prompts, range(count), steps=steps, guidance=guidance)
    rendered, said = _right(judge(classifier, true), scenes), judge(classifier, made)
    ruled = [read_by_rule(reading) for reading in oracle.read(made)]
    asked = [asked_for(scene) for scene in scenes]
    return [
        Row(
            name,
            1 / len(values),
            rendered[name],
            _share([a[name] == r[name] for a, r in zip(asked, ruled, strict=True)]),
            _share([a[name] == s[name] for a, s in zip(asked, said, strict=True)]),
            _share([r[name] == s[name] for r, s in zip(ruled, said, strict=True)]),
        )
        for name, values in ATTRIBUTES.items()
    ]


def one_object_scenes(count: int) -> list[Scene]:
    """Fixed scenes that no training sees."""
    return [sample_scene(CHECK_SEED, i, "one") for i in range(count)]


@torch.no_grad()
def judge(classifier: Classifier, images: Tensor) -> list[dict[str, str | None]]:
    """What the classifier says of pictures ``[B, 3, S, S]`` in -1..1, by attribute."""
    scores = torch.cat([classifier(part) for part in torch.split(images.float(), BATCH)])
    answers = torch.stack([part.argmax(dim=1) for part in _parts(scores)], dim=1).tolist()
    return [
        {name: values[i] for (name, values), i in zip(ATTRIBUTES.items(), row, strict=True)}
        for row in answers
    ]


def read_by_rule(reading: oracle.Reading) -> dict[str, str | None]:
    """What the oracle says of a picture, by attribute; None where it sees no object or no known shape."""
    if not reading.objects:
        return dict.fromkeys(ATTRIBUTES) | {"background": reading.background}
    return _attributes(reading.background, reading.objects[0])


def asked_for(scene: Scene) -> dict[str, str | None]:
    return _attributes(scene.background, scene.objects[0])


def _attributes(background: str, item: SceneObject | oracle.ReadObject) -> dict[str, str | None]:
    return {"background": background, "colour": item.colour, "shape": item.shape, "size": item.size}


def labels(scenes: Sequence[Scene]) -> Tensor:
    """The index of each attribute's value: ``[B, attributes]``."""
    rows = [asked_for(scene) for scene in scenes]
    return torch.tensor(
        [[values.index(str(row[name])) for name, values in ATTRIBUTES.items()] for row in rows]
    )


def shipped_classifier() -> Path:
    return weights_folder() / SHIPPED


def _parts(scores: Tensor) -> tuple[Tensor, ...]:
    return torch.split(scores, [len(values) for values in ATTRIBUTES.values()], dim=1)


def _right(said: Sequence[dict[str, str | None]], scenes: Sequence[Scene]) -> dict[str, float]:
    asked = [asked_for(scene) for scene in scenes]
    return {
        name: _share([s[name] == a[name] for s, a in zip(said, asked, strict=True)])
        for name in ATTRIBUTES
    }


def _share(answers: Sequence[bool]) -> float:
    return sum(answers) / max(1, len(answers))
