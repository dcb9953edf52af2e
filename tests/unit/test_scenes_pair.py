"""The CLIP pair of scenes: its losses, its training on small networks, and how it is scored."""

import csv
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.checkpoints.clip import ClipModel, list_clips, load_clip
from sd_scratch.cli import main
from sd_scratch.networks.image_encoder import Clip
from sd_scratch.scenes.captions import full_caption
from sd_scratch.scenes.graph import COLOURS, INVERSE, RELATIONS, SHAPES, sample_scene
from sd_scratch.scenes.render import render
from sd_scratch.text.tokenizer import Tokenizer
from sd_scratch.training.journal import read_journal
from sd_scratch.training.loop import Run, train
from sd_scratch.training.scenes import pair, pair_evaluation
from sd_scratch.training.scenes.augment import Wear, draw_wear, worsen
from sd_scratch.training.scenes.lessons import (
    ABSENT,
    FACT_ANSWERS,
    NOT_SAID,
    Lessons,
    fact_loss,
    facts_of,
    lesson_losses,
    patch_labels,
    sides,
)
from sd_scratch.training.scenes.pair import (
    FALSE_TEXTS,
    PairTask,
    contrastive_loss,
    texts_of,
    token_ids,
)
from sd_scratch.training.scenes.pair_evaluation import evaluate_pair
from sd_scratch.training.scenes.train import train_scenes
from sd_scratch.training.settings import Budget, TrainConfig
from sd_scratch.training.state import load_state
from tests.lively import liven
from tests.pair_worker import CONFIG, EAGER, STEPS

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "weights" / "scenes-clip"
needs_pair = pytest.mark.skipif(not SHIPPED.is_dir(), reason="no pair is shipped yet")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(ROOT / "weights" / "scenes" / "tokenizer", 32)


@pytest.fixture
def untrained(tokenizer: Tokenizer) -> ClipModel:
    return ClipModel(liven(Clip(CONFIG)).requires_grad_(False), tokenizer, "untrained")  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def all_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs, too, see false texts."""
    monkeypatch.setattr(pair, "EASY_STEPS", 0)


def test_the_pair_learns_one_batch_by_heart(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = PairTask(EAGER, tokenizer, config=CONFIG)
    loss = task.loss
    task.loss = lambda step, generator: loss(0, torch.Generator().manual_seed(0))  # type: ignore[method-assign]
    run = Run(task, EAGER, tmp_path)
    rows = [run.take_step(0.0) for _ in range(80)]
    assert rows[0]["right"] < 0.5
    assert rows[-1]["right"] == 1.0
    assert rows[-1]["loss"] < rows[0]["loss"] / 5


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair, "LOOK_COUNT", 4)
    for folder, parts in (("whole", (4,)), ("cut", (2, 4))):
        for steps in parts:
            task = PairTask(EAGER, tokenizer, config=CONFIG)
            train(task, EAGER, Budget(steps=steps), tmp_path / folder, resume=True)
    whole, cut = load_state(tmp_path / "whole"), load_state(tmp_path / "cut")
    assert whole is not None and cut is not None
    for key, value in whole.ema.items():
        assert torch.equal(value, cut.ema[key]), key


def test_two_processes_make_the_model_of_one(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each compares its pictures with the texts of both."""
    monkeypatch.setattr(pair, "LOOK_COUNT", 4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = []
    for rank in ("0", "1"):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
        env = os.environ | place | {"MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.pair_worker", str(tmp_path / "two")]
        workers.append(subprocess.Popen(command, env=env, cwd=ROOT, stderr=subprocess.PIPE))
    alone = train(
        PairTask(EAGER, tokenizer, config=CONFIG), EAGER, Budget(steps=STEPS), tmp_path / "one"
    )
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors.decode()
    one, two = (
        [row for row in read_journal(tmp_path / name) if "loss" in row] for name in ("one", "two")
    )
    assert len(one) == len(two) == STEPS
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-4)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)
    together = load_state(tmp_path / "two")
    assert together is not None
    for key, value in alone.model.state_dict().items():
        if key.endswith("k_proj.bias"):  # no gradient but rounding, which Adam makes large
            continue
        torch.testing.assert_close(together.model[key], value, rtol=1e-3, atol=1e-4)


def test_the_loss_is_that_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(3, 5, generator=generator), dim=-1)
    texts = F.normalize(torch.randn(3, 4, 5, generator=generator), dim=-1)
    total = 0.0
    for i in range(3):
        true = (7 * images[i] @ texts[i, 0]).exp()
        all_texts = sum((7 * images[i] @ text).exp() for row in texts for text in row)
        all_images = sum((7 * image @ texts[i, 0]).exp() for image in images)
        total -= float((true / all_texts).log() + (true / all_images).log()) / 6
    loss, right = contrastive_loss(images, texts, torch.tensor(7.0))
    assert float(loss) == pytest.approx(total, rel=1e-5)
    loss, right = contrastive_loss(
        torch.eye(3), torch.eye(12, 3).view(4, 3, 3).transpose(0, 1), torch.tensor(50.0)
    )
    assert float(right) == 1.0 and float(loss) < 1e-6


def test_patches_are_asked_for_what_they_show() -> None:
    """A square that covers known patches, and next to nothing of the others."""
    scene = sample_scene(1, 0, "one")
    item = replace(scene.objects[0], shape="square", x=0.5, y=0.5, radius=0.3, angle=0.0)
    scene = replace(scene, objects=(item,))
    shape, colour = patch_labels([scene], render([scene], 64).masks, 64)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:6, 2:6] = True  # it reaches from 0.25 to 0.75
    square, ground = list(SHAPES).index("square"), list(COLOURS).index(scene.background)
    own = list(COLOURS).index(item.colour)
    assert torch.equal(shape.view(8, 8), torch.where(inside, square, ABSENT))
    assert torch.equal(colour.view(8, 8), torch.where(inside, own, ground))
    facts = facts_of([scene]).of_patches(colour)
    assert facts.shape.shape == (1, 64, len(COLOURS))
    assert torch.equal(facts.shape[0, :, own].view(8, 8), torch.where(inside, square, ABSENT))
    others = [c for c in range(len(COLOURS)) if c != own]
    assert (facts.shape[0, :, others] == ABSENT).all()
    assert facts.centre[0, 27, own].tolist() == [0.5, 0.5]


def test_pictures_are_asked_for_what_is_of_each_colour() -> None:
    """The right answers, written down by hand, cost nothing; each wrong one costs something."""
    scenes = [next(s for i in range(99) if (s := sample_scene(1, i)).kind == "two")]
    scenes.append(
        next(s for i in range(99) if len((s := sample_scene(1, i, "count")).objects) == 3)
    )
    answers = torch.full((2, len(COLOURS), sum(FACT_ANSWERS)), -50.0)
    answers[:, :, len(SHAPES)] = 50.0
    for row, scene in zip(answers, scenes, strict=True):
        for item in scene.objects:
            cell = row[list(COLOURS).index(item.colour)]
            cell[:-2] = -50.0
            cell[list(SHAPES).index(item.shape)] = 50.0
            cell[len(SHAPES) + 1 + ["small", "medium", "large"].index(item.size)] = 50.0
            cell[len(SHAPES) + 4 + (2 if scene.kind == "count" else 0)] = 50.0
            cell[-2:] = torch.tensor([item.x, item.y])
    facts = facts_of(scenes)
    assert float(fact_loss(answers, facts, 2)) < 1e-6
    for b, item in ((0, scenes[0].objects[1]), (1, scenes[1].objects[0])):
        for first, last in ((0, 9), (9, 12), (12, 16), (16, 18)):
            wrong = answers.clone()
            part = wrong[b, list(COLOURS).index(item.colour), first:last]
            part[...] = part.roll(1) + torch.arange(last - first)
            costs = float(fact_loss(wrong, facts, 2)) > 0.01
            assert costs == (b == 0 or first != 16)  # nobody asks where three alike are


def test_texts_are_asked_which_side_something_is_on() -> None:
    """Of "a red star above a blue ring" red is above and blue below, if the text says so."""
    scene = next(s for i in range(99) if (s := sample_scene(1, i)).relation == "above")
    upper, lower = (list(COLOURS).index(item.colour) for item in scene.objects)
    said, unsaid, alone = sides([scene, scene, sample_scene(1, 0, "one")], [True, False, True])
    assert said[upper] == list(RELATIONS).index("above")
    assert said[lower] == list(RELATIONS).index("below")
    assert int((said != NOT_SAID).sum()) == 2
    assert (unsaid == NOT_SAID).all() and (alone == NOT_SAID).all()


def test_every_answer_is_asked_for() -> None:
    """Each of the five can be wrong on its own."""
    scenes = [sample_scene(5, i) for i in range(3)]
    masks = render(scenes, 32).masks
    lessons = Lessons(16, 8, 12)
    drawn = (torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    answers = lessons(*drawn, torch.zeros(3, 16), torch.zeros(3, 12))
    losses = lesson_losses(answers, scenes, masks, [True] * 3)
    assert all(float(loss.detach()) > 0.2 for loss in losses)
    pixels = masks.sum(dim=1).view(3, 4, 8, 4, 8).transpose(2, 3).reshape(3, 16, 64)
    right = answers._replace(mask=torch.logit(pixels, eps=1e-6))
    better = lesson_losses(right, scenes, masks, [True] * 3)
    blurred = torch.special.entr(pixels) + torch.special.entr(1 - pixels)  # along the outlines
    assert float(better.mask) == pytest.approx(float(blurred.mean()), abs=1e-4)
    assert [a == b for a, b in zip(losses, better, strict=True)] == [False] + 4 * [True]


def test_false_texts_come_when_pictures_can_be_read(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(pair, "EASY_STEPS", 1)
    monkeypatch.setattr(
        pair, "contrastive_loss", lambda *x: seen.append(x[1].shape[1]) or contrastive_loss(*x)
    )
    task = PairTask(EAGER, tokenizer, config=CONFIG)
    for step in (0, 1):
        task.loss(step, torch.Generator().manual_seed(0))
    assert seen == [1, 1 + FALSE_TEXTS]


def test_texts_are_one_true_and_false_ones_that_are_hard() -> None:
    scenes = [sample_scene(5, i, "two") for i in range(40)]
    kinds = []
    for i, scene in enumerate(scenes):
        _, false = texts_of(scene, i)
        assert len(false) == FALSE_TEXTS == len(set(false))
        assert full_caption(scene) not in false
        inverse = replace(scene, relation=INVERSE[str(scene.relation)])
        kinds.append(full_caption(inverse) in false)
        assert all(f"{scene.background} background" in text for text in false)
    assert 0.3 < sum(kinds) / len(kinds) < 1.0  # one of up to three that are hard
    plain = [texts_of(scene, i)[0].text == full_caption(scene) for i, scene in enumerate(scenes)]
    assert 0.3 < sum(plain) / len(plain) < 0.9


def test_texts_may_be_cut_after_their_end(tokenizer: Tokenizer, untrained: ClipModel) -> None:
    texts = [["a star", "a large red star"], ["two crosses", "a small blue ring"]]
    short = token_ids(tokenizer, texts)
    assert short.shape[2] < 32
    full = torch.tensor([[tokenizer.encode(text).ids for text in row] for row in texts])
    vectors = [untrained.network.text_vectors(ids.flatten(0, 1)) for ids in (short, full)]
    torch.testing.assert_close(*vectors, rtol=1e-5, atol=1e-5)


def test_wear_is_none_where_none_is_asked_for() -> None:
    images = render([sample_scene(1, i) for i in range(2)], 16).images
    none = Wear(torch.zeros(2), torch.full((2, 3), 0.5), torch.zeros_like(images))
    torch.testing.assert_close(worsen(images, none), images)
    worn = worsen(images, draw_wear(2, 16, torch.Generator().manual_seed(0)))
    assert 0.01 < float((worn - images).abs().mean()) < 0.2
    assert worn.abs().max() <= 1


# How it is scored -----------------------------------------------------------------------------


def test_an_untrained_pair_is_no_better_than_guessing(untrained: ClipModel) -> None:
    rows = {row.question: row for row in evaluate_pair(untrained, count=64)}
    first = rows["its caption among 64"]
    assert first.asked == 64 and first.chance == 1 / 64 and first.right < 0.2
    assert rows["its caption above every false one"].right < 0.5
    kinds = {name.removeprefix("above a false ") for name in rows if "above a false" in name}
    assert kinds == {"colour", "shape", "background", "place", "count", "relation", "binding"}
    assert {rows[f"above a false {kind}"].chance for kind in kinds} == {0.5}


def test_a_pair_that_knows_everything_is_right(
    untrained: ClipModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every true text has its scene's vector, every other another one."""
    scenes = [sample_scene(pair_evaluation.CHECK_SEED, i) for i in range(8)]
    known = {}
    for i, scene in enumerate(scenes):
        for place in (False, True):
            known[full_caption(scene, place=place)] = F.one_hot(torch.tensor(i), 9).float()

    def texts(clip: ClipModel, texts: list[str]) -> Tensor:
        return torch.stack(
            [known.get(text, F.one_hot(torch.tensor(8), 9).float()) for text in texts]
        )

    monkeypatch.setattr(pair_evaluation, "text_vectors", texts)
    monkeypatch.setattr(pair_evaluation, "picture_vectors", lambda *_: torch.eye(8, 9))
    assert {row.right for row in evaluate_pair(untrained, count=8)} == {1.0}
    monkeypatch.setattr(pair_evaluation, "picture_vectors", lambda *_: torch.eye(9)[[8] * 8])
    rows = evaluate_pair(untrained, count=8)
    assert {row.right for row in rows if "false" in row.question} == {0.0}


def test_the_stage_leaves_a_pair_that_the_commands_use(
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pair, "LOOK_COUNT", 4)
    tokenizer.save(tmp_path / "tokenizer")
    settings = TrainConfig(batch=4, lr=1e-4)
    outcome = train_scenes("clip", tmp_path, Budget(steps=1), settings=settings)
    clip = load_clip(str(tmp_path / "scenes-clip"))
    trained = outcome.ema.clip.state_dict()  # type: ignore[union-attr]
    for key, value in clip.network.state_dict().items():
        torch.testing.assert_close(value, trained[key], rtol=1e-3, atol=1e-6)
    command = ["train", "scenes", "--stage", "clip", "--count", "6"]
    assert main([*command, "--evaluate", str(tmp_path / "scenes-clip")]) == 0
    assert "| its caption among 6 | 6 | 16.7% |" in capsys.readouterr().out


@needs_pair
def test_the_shipped_pair_is_as_good_as_its_card_says() -> None:
    assert "scenes-clip" in list_clips()
    rows = {row.question: row for row in evaluate_pair(load_clip("scenes-clip"), count=128)}
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert rows["its caption among 64"].right > 0.85
    assert rows["its caption above every false one"].right > 0.8
    for name, row in rows.items():
        (line,) = (line for line in card.splitlines() if line.startswith(f"| {name} |"))
        figure = float(line.split("|")[4].strip(" %")) / 100
        assert row.right == pytest.approx(figure, abs=0.1), name


@needs_pair
def test_pictures_of_scenes_are_scored_by_the_pair(tmp_path: Path) -> None:
    out = tmp_path / "noise"
    command = ["map", "noise", "a star", "-m", "scenes", "--seeds", "2", "--steps", "1"]
    assert main([*command, "-o", str(out)]) == 0
    assert json.loads((out / "settings.json").read_text())["clip"] == "scenes-clip"
    with (out / "scores.csv").open() as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    assert len(scores) == 2 and all(abs(score) < 100 for score in scores)
