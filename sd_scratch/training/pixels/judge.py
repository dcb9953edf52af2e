"""Trains the classifier that judges pictures, by the same loop and on the same data."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.checkpoints.pixel_model import build_classifier, save_classifier
from sd_scratch.networks.classifier import Classifier
from sd_scratch.training.pixels.batches import Batches, mirror_half, shift_each
from sd_scratch.training.pixels.images import DataSet, LabelledImages, to_pixels
from sd_scratch.training.pixels.presets import JudgePreset
from sd_scratch.training.task import Task

BATCH = 500
LABEL_SMOOTHING = 0.05


class JudgeTask(Task):
    """Tells the classes of pictures apart."""

    result = "classifier"

    def __init__(self, preset: JudgePreset, data: DataSet, name: str) -> None:
        self.preset, self.data, self.name = preset, data, name
        self.batches = Batches(data.train, preset.train.batch, preset.train.seed)
        self.per_epoch = self.batches.per_epoch
        super().__init__(build_classifier(preset.model, preset.train.seed), preset.train)

    def settings(self) -> dict[str, Any]:
        return {
            "network": asdict(self.preset.model),
            "data": self.name,
            "pictures": self.data.train.fingerprint,
            "shift": self.preset.shift,
            "flip": self.preset.flip,
        }

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy with slightly softened labels (Szegedy et al. 2015, arXiv:1512.00567)."""
        images, labels = self.batches(step)
        images = shift_each(images, self.preset.shift, generator)
        if self.preset.flip:
            images = mirror_half(images, generator)
        pixels = to_pixels(images, -1.0).contiguous(memory_format=torch.channels_last)
        scores = self.model(pixels)
        loss = F.cross_entropy(scores, labels, label_smoothing=LABEL_SMOOTHING)
        right = (scores.detach().argmax(1) == labels).float().mean()
        return loss, {"accuracy": float(right)}

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(model, Classifier)
        return {"test accuracy": accuracy(model, self.data.test)}

    def export(self, model: nn.Module, folder: Path, step: int, seconds: float) -> None:
        assert isinstance(model, Classifier)
        save_classifier(model, folder, torch.float32)


@torch.no_grad()
def judge_pictures(judge: Classifier, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities ``[N, classes]`` and features ``[N, F]`` of pictures in -1..1."""
    features = torch.cat([judge.features(part) for part in torch.split(pictures, BATCH)])
    scores: Tensor = judge.head(features)
    return scores.softmax(dim=1), features


def accuracy(judge: Classifier, data: LabelledImages) -> float:
    """The share of pictures whose class it tells, 0..1."""
    probabilities, _ = judge_pictures(judge, to_pixels(data.images, -1.0))
    return float((probabilities.argmax(1) == data.labels).float().mean())
