"""The figures for pictures on pixels: each is checked where the answer is known."""

from dataclasses import replace

import pytest
import torch

from sd_scratch.checkpoints.pixel_model import (
    PixelComponents,
    build_classifier,
    build_denoiser,
    load_classifier,
)
from sd_scratch.config import ClassifierConfig
from sd_scratch.errors import ScratchError
from sd_scratch.pipeline.pixel_diffusion import PixelDiffusion
from sd_scratch.training.loop import Run
from sd_scratch.training.pixels.evaluate import (
    frechet_distance,
    make_pictures,
    score_pictures,
    trained_on_samples,
)
from sd_scratch.training.pixels.images import LabelledImages
from sd_scratch.training.pixels.judge import JudgeTask, accuracy
from sd_scratch.training.pixels.train import train_classifier
from sd_scratch.training.settings import Budget
from tests.digits import BETTER, JUDGE, digit_data, digits, lively


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A classifier that was trained and written as the command does it."""
    out = tmp_path_factory.mktemp("judge")
    train_classifier(JUDGE, "mnist", digit_data(), out, Budget(steps=60))
    return load_classifier(out / "classifier")


def test_frechet_distance_between_known_gaussians():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    z = (z - z.mean(0)) @ torch.linalg.inv(
        torch.linalg.cholesky(torch.cov(z.T))
    ).T  # exactly N(0,1)
    scale_a, scale_b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 0.5])
    shift = torch.tensor([3.0, 0.0, 4.0])
    expected = 25.0 + float((scale_a - scale_b).square().sum())
    a, b = z * scale_a, z * scale_b + shift
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(expected, rel=1e-6)


def test_the_classifier_learns(judge):
    assert accuracy(judge, digits(100, seed=9)) > 0.95


def test_real_pictures_score_as_the_floor_says(judge):
    scores = score_pictures(judge, digits(100, seed=5), digit_data())
    assert scores.accuracy > 0.95 and scores.real_accuracy > 0.95
    assert scores.probability > 0.5
    assert scores.frechet < 3 * scores.floor + 0.1
    assert len(scores.by_class) == 10


def test_wrong_classes_and_wrong_pictures_score_badly(judge):
    data = digit_data()
    right = digits(100, seed=5)
    turned = LabelledImages(right.images, (right.labels + 1) % 10, right.class_names)
    scores = score_pictures(judge, turned, data)
    assert scores.accuracy < 0.1
    assert scores.frechet < 3 * scores.floor + 0.1  # the pictures themselves are good

    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, right.images.shape, generator=generator).to(torch.uint8)
    bad = score_pictures(judge, LabelledImages(noise, right.labels, right.class_names), data)
    assert bad.frechet > 5 * scores.frechet
    one_class = digits(100, seed=5).rows(torch.arange(0, 100, 10))
    few = score_pictures(judge, one_class, data)
    assert few.frechet > 5 * scores.frechet  # variety is missing


def test_a_classifier_that_learns_from_good_pictures_knows_real_ones():
    data, budget = digit_data(), Budget(steps=60)
    assert trained_on_samples(digits(160, seed=6), data, JUDGE, budget) > 0.9
    made = digits(160, seed=6)
    wrong = LabelledImages(made.images, made.labels // 2 * 2, made.class_names)
    assert trained_on_samples(wrong, data, JUDGE, budget) < 0.6


def test_samples_are_made_for_classes_in_turn():
    network = lively(build_denoiser(BETTER.model))
    model = PixelDiffusion(PixelComponents(BETTER.model, network))
    made = make_pictures(model, 13, steps=2)
    assert made.labels.tolist() == [*range(10), 0, 1, 2]
    assert made.images.dtype == torch.uint8 and made.images.shape == (13, 1, 8, 8)


def test_a_classifier_for_other_pictures_is_refused():
    other = build_classifier(ClassifierConfig(in_channels=3, sample_size=32))
    with pytest.raises(ScratchError, match="was trained on this data"):
        score_pictures(other, digits(10), digit_data())


def test_a_classifier_resumes_exactly(tmp_path):
    preset = replace(JUDGE, shift=1, flip=True)
    whole = train_classifier(preset, "mnist", digit_data(), tmp_path / "a", Budget(steps=6))
    folder = tmp_path / "b" / "classifier"
    run = Run(JudgeTask(preset, digit_data(), "mnist"), preset.train, folder)
    for step in range(2):
        run.take_step(step / 6)
    run.save()
    again = train_classifier(
        preset, "mnist", digit_data(), tmp_path / "b", Budget(steps=6), resume=True
    )
    for a, b in zip(whole.ema.parameters(), again.ema.parameters(), strict=True):
        assert torch.equal(a, b)
