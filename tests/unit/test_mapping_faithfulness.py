"""Maps against what their words are known to do: every piece computed a second time, on a tiny model."""

import csv
import json

import pytest
import torch
import torch.nn.functional as F

from sd_scratch.checkpoints.save import save_folder
from sd_scratch.cli import main
from sd_scratch.cli.map import session
from sd_scratch.errors import ScratchError
from sd_scratch.mapping import Rendering, gradient_maps, perturbation_maps, record_heat
from sd_scratch.mapping.faithfulness import (
    Masks,
    differences_against_exact,
    examine,
    make_cases,
    measure,
    read_masks,
    score,
    summarise,
    summarise_checks,
    table,
)
from sd_scratch.mapping.faithfulness import run as whole
from sd_scratch.mapping.faithfulness.attention import kept, with_random_unet
from sd_scratch.mapping.faithfulness.cases import BACKGROUND, NOUN, Slot, said, slots
from sd_scratch.mapping.faithfulness.checks import PARTS, check_pictures, cut, randomise
from sd_scratch.mapping.faithfulness.maps import baselines, measured_pictures
from sd_scratch.mapping.faithfulness.scores import COLUMNS, against_mask, own_object
from sd_scratch.scenes.render import render
from tests.tiny import tiny_components, tiny_model

SETTINGS = {"sampler": "ddim", "steps": 2, "guidance": 3.0}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def measured(model):
    return measure(Rendering(model, model.noise(), SETTINGS, batch_size=5), make_cases(2))


def test_every_second_scene_has_two_objects_and_its_words_are_found(model):
    cases = make_cases(60)
    assert [len(case.scene.objects) for case in cases] == [1, 2] * 30
    kinds = [target.slot.kind for case in cases for target in case.targets]
    assert all(kinds.count(kind) >= 10 for kind in ("noun", "colour", "size", "background"))
    asked = [case.targets[0].slot.item for case in cases if len(case.scene.objects) == 2]
    assert asked.count(0) == asked.count(1) == 15
    for case in cases:
        words = [word.text for word in model.prompt(case.prompt).words]
        for target in (*case.targets, *case.others):
            # The sentence is "SIZE COLOUR SHAPE" for each object, then "COLOUR background".
            last = words.index("background") - 1
            nouns = [i for i, w in enumerate(words) if w == case.scene.objects[0].shape]
            place = case.word(model.prompt(case.prompt), target).tokens[0]
            text = model.prompt(case.prompt).encoding
            index = next(i for i, w in enumerate(text.words) if w.tokens[0] == place)
            if target.slot.kind == BACKGROUND:
                assert index == last
            if target.slot == Slot(NOUN, 0):
                assert index == nouns[0]
    assert make_cases(3) == cases[:3]


def test_a_swapped_sentence_differs_in_one_word_alone():
    for case in make_cases(40):
        for target in case.targets:
            before, after = case.prompt.split(), target.swapped.split()
            changed = [
                (a, b)
                for a, b in zip(before, after, strict=True)
                if a != b and a not in ("a", "an")
            ]
            assert len(changed) == 1 and changed[0][0] == target.text
            others = {said(case.scene, slot) for slot in slots(case.scene)}
            assert target.slot.kind == "size" or changed[0][1] not in others


def test_masks_are_those_of_the_picture():
    cases = make_cases(8)
    scenes = [case.scene for case in cases]
    drawn = render(scenes, 64)
    masks = read_masks(drawn.images / 2 + 0.5, scenes)
    for i, case in enumerate(cases):
        for k in range(len(case.scene.objects)):
            found, true = masks[i].objects[k], drawn.masks[i, k] > 0.5
            assert found is not None
            assert (found & true).sum() / (found | true).sum() > 0.9
            assert masks[i].of(Slot(NOUN, k)) is found
        assert not (masks[i].background & (drawn.masks[i].sum(dim=0) > 0.5)).any()
    two = masks[1]
    assert two.beside(Slot(NOUN, 0)) is two.objects[1]
    assert two.beside(Slot(BACKGROUND, -1)) is None and masks[0].beside(Slot(NOUN, 0)) is None


def test_what_was_asked_for_and_is_not_there_has_no_mask():
    cases = make_cases(2)
    (other,) = render([make_cases(3)[2].scene], 64).images[:1]
    found = read_masks(other[None] / 2 + 0.5, [cases[0].scene])[0]
    assert found.objects == (None,) and found.background is None


def test_the_maps_are_those_that_the_experiments_make(model, measured):
    for one in measured:
        prompt = model.prompt(one.case.prompt)
        words = [one.case.word(prompt, target) for target in one.case.targets]
        rendering = Rendering(model, model.noise(one.case.seed), SETTINGS)
        pixels, heat = record_heat(rendering, prompt, words)
        seen = (one.picture.clamp(0, 1) * 255).round()
        assert (seen - pixels).abs().max() <= 1
        _, louder = perturbation_maps(rendering, prompt, words)
        methods = {"forward": "forward difference", "central": "central difference"}
        methods["exact"] = "exact derivative"
        made = {
            name: gradient_maps(rendering, prompt, words, method=method)[1]
            for method, name in methods.items()
        }
        for i, own in enumerate(one.maps):
            assert (own["perturbation"] - louder[i].tensor).abs().max() <= 2
            for name, maps in made.items():
                close = 1e-3 if name == "exact derivative" else 2e-2
                assert (own[name] - maps[i].tensor).norm() < close * maps[i].tensor.norm(), name
            mean = F.interpolate(heat.maps()[i].tensor[None, None], (64, 64), mode="bilinear")[0, 0]
            assert torch.allclose(own["attention"], mean, atol=1e-5)
            layer = next(name for name in heat.shares if "down_blocks.0" in name)
            same = [
                n for n in heat.shares if heat.shares[n].shape[2] == heat.shares[layer].shape[2]
            ]
            h, w = heat.shares[layer].shape[2:4]
            finest = F.interpolate(heat.maps(same)[i].tensor[None, None], (64, 64), mode="bilinear")
            assert torch.allclose(own[f"attention {h}x{w}"], finest[0, 0], atol=1e-5)


def test_the_truths_are_the_swapped_word_and_the_derivative(model, measured):
    one = measured[1]
    noise = model.noise(one.case.seed)
    pictures = [
        (model.generate(text, noise, **SETTINGS).decode()[0] / 2 + 0.5).clamp(0, 1)
        for text in (one.case.prompt, one.case.targets[0].swapped)
    ]
    expected = (pictures[0] - pictures[1]).square().sum(dim=0).sqrt()
    assert torch.allclose(one.maps[0]["word swapped"], expected, atol=1e-4)
    assert one.maps[0]["derivative of another word"] is not one.maps[0]["exact derivative"]
    assert torch.equal(one.maps[0]["derivative of another word"], one.maps[1]["exact derivative"])
    for errors in one.errors:
        assert 0 < errors["central difference"] < 0.05
        assert errors["central difference"] < errors["forward difference"]


def test_baselines_know_the_picture_at_most():
    picture = torch.zeros(3, 64, 64)
    picture[:, 20:30, 40:50] = 1.0
    maps = baselines(picture, 3)
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[20:30, 40:50] = True
    assert torch.equal(maps["saliency"] > 0.5, inside)
    assert maps["edges"][25, 45] == 0 and maps["edges"][25, 40] > 0 and maps["edges"][0, 0] == 0
    y, x = divmod(int(maps["centre"].argmax()), 64)
    assert y in (31, 32) and x in (31, 32)
    assert torch.equal(maps["random"], baselines(picture, 3)["random"])
    assert not torch.equal(maps["random"], baselines(picture, 4)["random"])


def test_own_object_is_a_question_of_density():
    own, other = torch.zeros(2, 8, 8, dtype=torch.bool)
    own[:2, :2], other[4:, 4:] = True, True
    values = torch.zeros(8, 8)
    values[own], values[other] = 0.5, 0.4  # less mass, since the other is larger
    assert own_object(values, own, other) == 1.0 and own_object(values, other, own) == 0.0
    assert own_object(torch.ones(8, 8), own, other) == 0.5


def test_a_map_that_is_the_mask_has_the_best_scores_and_one_without_a_mask_has_none():
    own, other = torch.zeros(2, 16, 16, dtype=torch.bool)
    own[:4, :4], other[8:, 8:] = True, True
    row = against_mask(own.float(), own, other)
    for name in ("pointing", "mass", "IoU at 0.4", "best IoU", "average precision", "own object"):
        assert row[name] == 1.0
    assert row["mass beside"] == 0.0 and row["area"] == 1 / 16
    flat = against_mask(torch.ones(16, 16), own, None)
    assert flat["pointing"] == flat["mass"] == flat["area"] and flat["IoU at the mean"] is None
    assert flat["own object"] is None
    assert set(against_mask(torch.ones(16, 16), None, None).values()) == {None}


def test_rows_hold_every_map_and_truths_have_no_rank_with_themselves(measured):
    rows = [row for one in measured for row in score(one)]
    assert len(rows) == sum(len(maps) for one in measured for maps in one.maps)
    assert all(set(row) == set(COLUMNS) for row in rows)
    by_map = {row["map"]: row for row in rows if row["scene"] == 0 and row["kind"] == "noun"}
    assert by_map["word swapped"]["rank with swapped"] is None
    assert by_map["exact derivative"]["rank with derivative"] is None
    assert by_map["uniform"]["rank with swapped"] is None  # it is constant
    assert by_map["central difference"]["rank with derivative"] > 0.9
    assert (
        by_map["central difference"]["relative error"]
        == measured[0].errors[0]["central difference"]
    )
    assert not any(row["there"] for row in rows)  # a tiny model draws no shapes


def test_a_map_that_is_not_finite_is_refused(measured):
    maps = ({"attention": torch.full((64, 64), float("nan"))},)
    broken = type(measured[0])(
        measured[0].case, measured[0].picture, Masks((None,), None), maps, ({},)
    )
    with pytest.raises(ScratchError, match="not finite"):
        score(broken)


def test_attention_kept_everywhere_changes_nothing_and_nowhere_is_no_word(model):
    case = make_cases(1)[0]
    prompt = model.prompt(case.prompt)
    word = case.word(prompt, case.targets[0])
    rendering = Rendering(model, model.noise(), SETTINGS, batch_size=2)
    h, w = model.noise(0).latent.shape[-2:]
    all_, none, half = torch.ones(h, w), torch.zeros(h, w), torch.zeros(h, w)
    half[:, : w // 2] = 1
    made = kept(rendering, prompt, case.seed, word, torch.stack([all_, none, half]).bool())
    plain = rendering.colours([prompt], [case.seed])[0]
    assert torch.allclose(made[0], plain, atol=1e-4)

    def without(probs, at):
        changed = probs.clone()
        for position in word.positions:
            changed[..., 0] += changed[..., position]
            changed[..., position] = 0
        return changed

    with model.edit("unet.*.attn2.probs", without, branch="cond"):
        expected = rendering.colours([prompt], [case.seed])[0]
    assert torch.allclose(made[1], expected, atol=1e-4)
    assert not torch.allclose(made[1], plain, atol=1e-3)
    assert not torch.allclose(made[2], plain, atol=1e-3)


def test_deletion_and_insertion_are_areas_under_the_effect_that_is_left(model, measured):
    one = measured[0]
    rows = {
        row["map"]: row
        for row in cut(Rendering(model, model.noise(), SETTINGS, batch_size=16), one)
    }
    prompt = model.prompt(one.case.prompt)
    word = one.case.word(prompt, one.case.targets[0])
    h, w = model.noise(0).latent.shape[-2:]
    cells = F.adaptive_avg_pool2d(one.maps[0]["saliency"][None], (h, w))[0].flatten()
    order = cells.argsort(descending=True)
    cuts = [round(i * h * w / PARTS) for i in range(PARTS + 1)]
    first = torch.zeros(len(cuts), h * w, dtype=torch.bool)
    for row, count in zip(first, cuts, strict=True):
        row[order[:count]] = True
    rendering = Rendering(model, model.noise(), SETTINGS, batch_size=8)
    none = torch.zeros(1, h, w, dtype=torch.bool)
    for name, places in (("insertion", first), ("deletion", ~first)):
        made = kept(
            rendering, prompt, one.case.seed, word, torch.cat([places.view(-1, h, w), none])
        )
        away = (made.clamp(0, 1) - one.picture.clamp(0, 1)).abs().mean(dim=(1, 2, 3))
        left = 1 - away[:-1] / away[-1]
        area = ((left[1:] + left[:-1]) / 2).mean()  # equal steps from none to all
        assert rows["saliency"][name] == pytest.approx(float(area), abs=0.02)


def test_an_untrained_unet_is_another_one_and_the_trained_one_stays(model, measured):
    rendering = Rendering(model, model.noise(), SETTINGS)
    before = torch.get_rng_state()
    fresh = with_random_unet(rendering, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert fresh.model.vae is model.vae and fresh.model.unet is not model.unet
    weight = "conv_in.weight"
    assert not torch.equal(fresh.model.unet.get_parameter(weight), model.unet.get_parameter(weight))
    rows = {row["map"]: row for row in randomise(rendering, measured[:1])}
    assert rows["centre"]["rank with the trained map"] == pytest.approx(1.0)  # it ignores the model
    assert abs(rows["attention"]["rank with the trained map"]) < 0.95


def test_pictures_are_counted_as_they_are_made(model):
    made = []
    rendering = Rendering(model, model.noise(), SETTINGS, batch_size=16, on_step=made.append)
    cases = make_cases(2)
    (part,) = examine(rendering, cases, checks=1)
    assert sum(made) / SETTINGS["steps"] == pytest.approx(
        2 * measured_pictures() + check_pictures("ddim"), abs=4
    )
    assert {row["scene"] for row in part.checks} == {0}
    metrics = {name for row in part.checks for name in row}
    assert {"deletion", "rank with pndm", "rank with lms", "rank with the trained map"} <= metrics


def test_differences_are_refused_in_half_precision(model):
    half = tiny_model()
    half.unet.half()
    with pytest.raises(ScratchError, match="float32"):
        next(examine(Rendering(half, half.noise(), SETTINGS), make_cases(1)))


def test_words_of_one_scene_count_once():
    empty = dict.fromkeys(COLUMNS)
    rows = [
        empty | {"scene": scene, "kind": "noun", "map": "attention", "pointing": value}
        for scene, value in [(0, 1.0), (0, 0.0), (1, 1.0), (2, None)]
    ]
    (figure,) = summarise(rows)
    assert (figure.scenes, figure.mean) == (2, 0.75)
    assert figure.low == 0.5 and figure.high == 1.0
    (single,) = summarise_checks([{"scene": 4, "map": "attention", "deletion": 0.3}])
    assert (single.metric, single.mean, single.low) == ("deletion", 0.3, None)
    lines = table([figure, single], "noun", {"pointing": "points", "deletion": "del"}).splitlines()
    assert lines[2] == "| attention | 0.75 ± 0.25 | 0.30 |"


def test_errors_of_differences_are_told_by_their_median():
    errors = [0.001] * 6 + [0.02] * 3 + [5.0, None]
    rows = [
        dict.fromkeys(COLUMNS) | {"map": "central difference", "relative error": e} for e in errors
    ]
    (line,) = differences_against_exact(rows)
    assert "0.001 in the median of 10 words" in line and "at most 0.01 for 60%" in line


# The command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    save_folder(tiny_components(), path)
    return path


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return main(["map", "faithfulness", "-m", str(folder), "-t", "1", *arguments])

    return call


@pytest.fixture
def unread(monkeypatch):
    def read(*arguments, **options):
        raise AssertionError("weights were read")

    monkeypatch.setattr(session, "read_weights", read)


def test_the_command_writes_tables_a_figure_and_goes_on(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(whole, "PART", 2)
    quick = ["--steps", "1", "--checks", "0", "-o", "out"]
    assert run("--scenes", "2", *quick) == 0
    out = tmp_path / "out"
    settings = json.loads((out / "settings.json").read_text())
    assert settings["scenes"] == 2 and settings["sampler"] and settings["model_hash"]
    names = {path.name for path in out.iterdir()} - {"settings.json"}
    assert names == set(settings["files"])
    assert {"scenes.csv", "summary.csv", "examples.png", "examples.safetensors"} <= names
    with (out / "scenes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["scene"] for row in rows}) == 2
    assert "| exact derivative |" in capsys.readouterr().out

    asked = []
    real = whole.measure
    monkeypatch.setattr(whole, "measure", lambda b, some: asked.append(some) or real(b, some))
    assert run("--scenes", "4", *quick, "--resume") == 0
    assert [[case.index for case in some] for some in asked] == [[2, 3]]
    with (out / "scenes.csv").open() as file:
        again = list(csv.DictReader(file))
    assert again[: len(rows)] == rows and len({row["scene"] for row in again}) == 4
    assert run("--scenes", "4", "--steps", "2", "--checks", "0", "-o", "out", "--resume") == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scenes", "1"], "not an integer from 2"),
        (["--dtype", "float16"], "rounding of float16"),
        (["--sampler", "nonsense"], "nonsense"),
        (["--resume"], "folder"),
        (["--seed", str(2**64 - 1)], "exceed"),
    ],
)
def test_bad_input_is_refused_before_weights_are_read(run, unread, capsys, arguments, says):
    assert run(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert says in error.splitlines()[-1]


def test_processes_share_the_parts_that_one_would_make():
    cases = make_cases(19, 0)
    first, second = (whole.own_cases(cases, (rank, 2)) for rank in (0, 1))
    assert [case.index for case in first] == [*range(8), *range(16, 19)]
    assert [case.index for case in second] == [*range(8, 16)]
    assert whole.own_cases(cases, (0, 1)) == list(cases)
