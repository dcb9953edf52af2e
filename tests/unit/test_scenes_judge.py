"""The classifier that checks the oracle of scenes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sd_scratch.checkpoints import load_components
from sd_scratch.checkpoints.pixel_model import build_classifier, load_classifier
from sd_scratch.cli import main
from sd_scratch.scenes import oracle
from sd_scratch.scenes.graph import COLOURS, SHAPES, SIZES
from sd_scratch.scenes.render import render
from sd_scratch.training.loop import Run, train
from sd_scratch.training.scenes import judge
from sd_scratch.training.scenes.judge import (
    ATTRIBUTES,
    JUDGE,
    SceneJudgeTask,
    asked_for,
    evaluate_judge,
    labels,
    one_object_scenes,
    read_by_rule,
)
from sd_scratch.training.scenes.train import train_scenes
from sd_scratch.training.settings import Budget, TrainConfig
from sd_scratch.training.state import load_state

EAGER = TrainConfig(batch=8, lr=3e-3, warmup_steps=1, decay_share=0.0)
SMALL = replace(JUDGE, sample_size=32, block_out_channels=(16, 32))


def test_the_classifier_learns_one_batch_by_heart(tmp_path: Path) -> None:
    task = SceneJudgeTask(EAGER, config=SMALL)
    loss = task.loss
    task.loss = lambda step, generator: loss(0, torch.Generator().manual_seed(0))  # type: ignore[method-assign]
    run = Run(task, EAGER, tmp_path)
    losses = [run.take_step(0.0)["loss"] for _ in range(80)]
    assert losses[-1] < losses[0] / 5


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "COUNT", 2)
    for folder, parts in (("whole", (4,)), ("cut", (2, 4))):
        for steps in parts:
            task = SceneJudgeTask(EAGER, config=SMALL)
            train(task, EAGER, Budget(steps=steps), tmp_path / folder, resume=True)
    whole, cut = load_state(tmp_path / "whole"), load_state(tmp_path / "cut")
    assert whole is not None and cut is not None
    for key, value in whole.ema.items():
        assert torch.equal(value, cut.ema[key]), key


def test_labels_are_places_among_the_values() -> None:
    scenes = one_object_scenes(20)
    for row, scene in zip(labels(scenes).tolist(), scenes, strict=True):
        item = scene.objects[0]
        names = [list(COLOURS)[row[0]], list(COLOURS)[row[1]], SHAPES[row[2]], list(SIZES)[row[3]]]
        assert names == [scene.background, item.colour, item.shape, item.size]
    assert sum(map(len, ATTRIBUTES.values())) == JUDGE.num_classes


def test_the_oracle_is_read_in_the_same_words() -> None:
    scenes = one_object_scenes(10)
    readings = oracle.read(render(scenes, 64).images)
    assert [read_by_rule(r) for r in readings] == [asked_for(scene) for scene in scenes]
    empty = torch.zeros(1, 3, 64, 64)
    (nothing,) = (read_by_rule(r) for r in oracle.read(empty))
    assert nothing["shape"] is nothing["colour"] is nothing["size"] is None


def test_who_is_right_and_who_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of other scenes than asked for: the oracle reads them, the classifier sees circles."""
    scenes, drawn = one_object_scenes(12), one_object_scenes(24)[12:]
    monkeypatch.setattr(judge, "sample_prompts", lambda *_, **__: render(drawn, 64).images)
    always = {"background": "red", "colour": "blue", "shape": "circle", "size": "small"}
    monkeypatch.setattr(judge, "judge", lambda _, images: [always] * len(images))
    components = load_components("scenes")
    rows = {
        row.attribute: row for row in evaluate_judge(components, build_classifier(JUDGE), count=12)
    }
    for name, row in rows.items():
        asked, shown = ([asked_for(s)[name] for s in part] for part in (scenes, drawn))
        pairs = list(zip(asked, shown, strict=True))
        assert row.by_oracle == pytest.approx(sum(a == s for a, s in pairs) / 12)
        assert row.by_classifier == row.rendered == pytest.approx(asked.count(always[name]) / 12)
        assert row.agreement == pytest.approx(shown.count(always[name]) / 12)
        assert row.chance == 1 / len(ATTRIBUTES[name])


def test_the_stage_leaves_a_classifier_that_the_command_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(judge, "COUNT", 2)
    train_scenes("classifier", tmp_path, Budget(steps=1), settings=EAGER)
    folder = tmp_path / "scenes-classifier"
    assert load_classifier(folder).config == JUDGE
    command = ["train", "scenes", "--stage", "classifier", "--count", "2", "--steps", "1"]
    assert main([*command, "--evaluate", "scenes", "--classifier", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {name}" for name in ATTRIBUTES]
