"""How good a model's pictures are, measured offline with a classifier of our own.

Four figures, each with what real pictures get by it:

- class accuracy: how often the classifier sees the class that was asked for;
- probability: how much of it, on average, it gives to that class;
- Fréchet distance: between Gaussians fitted to the features of made and of real test pictures (Heusel
  et al. 2017, arXiv:1706.08500, with these features instead of Inception's). Its floor is the distance
  of as many real training pictures from the same test pictures;
- trained on samples: the accuracy on real test pictures of a classifier that has seen made pictures
  alone (Ravuri and Vinyals 2019, arXiv:1905.10887). It falls when classes or variety are missing.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sd_scratch.errors import UsageError
from sd_scratch.networks.classifier import Classifier
from sd_scratch.pictures.pixels import to_bytes
from sd_scratch.pipeline.pixel_diffusion import PixelDiffusion
from sd_scratch.training.loop import train
from sd_scratch.training.pixels.images import DataSet, LabelledImages, to_pixels
from sd_scratch.training.pixels.judge import JudgeTask, accuracy, judge_pictures
from sd_scratch.training.pixels.presets import JudgePreset, judge_for_classes
from sd_scratch.training.settings import Budget

COUNT = 2000
SAMPLES_MINUTES = 3.0
FLOOR_SEED = 901
FIRST_SEED = 1_000_000  # far from those of the sheets that people look at


@dataclass(frozen=True)
class Scores:
    """Shares are 0..1; `real_accuracy` is the classifier's on real test pictures, `floor` the Fréchet
    distance of real pictures from real pictures, `learnt` what a classifier made of samples alone."""

    accuracy: float
    probability: float
    by_class: tuple[float, ...]
    frechet: float
    floor: float
    real_accuracy: float
    count: int
    learnt: float | None = None


def evaluate_pixels(
    model: PixelDiffusion,
    judge: Classifier,
    data: DataSet,
    preset: JudgePreset,
    *,
    count: int = COUNT,
    learn_from: int | None = None,
    **settings: Any,
) -> Scores:
    """Score `count` samples; `learn_from` also trains a classifier by `preset` on so many of them.

    `settings` are those of `make_pictures`. Raises `ScratchError` for a classifier of other pictures.
    """
    check_same_kind(judge, data)
    made = make_pictures(model, max(count, learn_from or 0), **settings)
    scores = score_pictures(judge, made.first(count), data)
    if learn_from is None:
        return scores
    preset = judge_for_classes(preset, len(data.train.class_names))
    budget = Budget(minutes=SAMPLES_MINUTES)
    return replace(scores, learnt=trained_on_samples(made.first(learn_from), data, preset, budget))


def make_pictures(
    model: PixelDiffusion,
    count: int,
    *,
    sampler: str = "ddim",
    steps: int = 50,
    guidance: float | None = None,
) -> LabelledImages:
    """`count` pictures as 8-bit data; the classes take turns."""
    classes = [i % model.no_class for i in range(count)]
    seeds = [FIRST_SEED + i for i in range(count)]
    pictures = model.generate(classes, seeds, sampler=sampler, steps=steps, guidance=guidance)
    names = model.config.class_names
    return LabelledImages(
        to_bytes(pictures.cpu() * 0.5 + 0.5), torch.tensor(classes), names, "samples"
    )


def score_pictures(judge: Classifier, made: LabelledImages, data: DataSet) -> Scores:
    """All figures but `learnt`."""
    check_same_kind(judge, data)
    probabilities, features = judge_pictures(judge, to_pixels(made.images, -1.0))
    right = (probabilities.argmax(1) == made.labels).float()
    given = probabilities.gather(1, made.labels[:, None]).mean()
    by_class = tuple(
        float(right[made.labels == c].mean()) if (made.labels == c).any() else 0.0
        for c in range(len(made.class_names))
    )
    _, test = judge_pictures(judge, to_pixels(data.test.images, -1.0))
    generator = torch.Generator().manual_seed(FLOOR_SEED)
    rows = torch.randperm(len(data.train), generator=generator)[: len(made)]
    _, real = judge_pictures(judge, to_pixels(data.train.images[rows], -1.0))
    return Scores(
        accuracy=float(right.mean()),
        probability=float(given),
        by_class=by_class,
        frechet=frechet_distance(features, test),
        floor=frechet_distance(real, test),
        real_accuracy=accuracy(judge, data.test),
        count=len(made),
    )


def trained_on_samples(
    made: LabelledImages, data: DataSet, preset: JudgePreset, budget: Budget
) -> float:
    """The accuracy on real test pictures of a fresh classifier that learns from `made` alone."""
    task = JudgeTask(preset, DataSet(made, data.test), "samples")
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(task, preset.train, budget, Path(folder))
    if outcome.interrupted:
        raise KeyboardInterrupt
    assert isinstance(outcome.ema, Classifier)
    return accuracy(outcome.ema, data.test)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between Gaussians with the means and covariances of two sets of features ``[N, F]``.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))   (Dowson and Landau 1982)
    """
    a, b = a.double(), b.double()
    difference = a.mean(0) - b.mean(0)
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # C_a C_b has the eigenvalues of the symmetric C_a^(1/2) C_b C_a^(1/2).
    root = _root(cov_a)
    product = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float(difference.square().sum() + cov_a.trace() + cov_b.trace() - 2 * product)


def check_same_kind(judge: Classifier, data: DataSet) -> None:
    """Raise `ScratchError` unless the classifier is one for such pictures."""
    config, test = judge.config, data.test
    wanted = (test.channels, test.side, len(test.class_names))
    if (config.in_channels, config.sample_size, config.num_classes) != wanted:
        raise UsageError(
            f"the classifier is for {config.num_classes} classes of {config.sample_size}-pixel"
            f" pictures with {config.in_channels} channels, the data has other ones - name the"
            " classifier that was trained on this data"
        )


def _root(cov: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(cov)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
