"""``sd-scratch map`` on a tiny model: what it writes, and what it refuses before it reads weights."""

import argparse
import csv
import json
import os
import re
import shlex
import textwrap
import tty
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from sd_scratch.checkpoints.save import save_folder
from sd_scratch.cli import Parser, main
from sd_scratch.cli.map import EXPERIMENTS, add_arguments, progress, session
from sd_scratch.cli.map.arguments import PROMPTS
from sd_scratch.cli.map.keys import named, typed
from sd_scratch.config import ClipConfig, ImageEncoderConfig, TextEncoderConfig
from sd_scratch.mapping import Rendering
from sd_scratch.mapping.movement import reached
from sd_scratch.networks.image_encoder import Clip
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from tests.lively import liven
from tests.tiny import tiny_components

PROMPT = "a red circle"
QUICK = ["--steps", "2", "-W", "32", "-H", "24", "-t", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    save_folder(tiny_components(), path)
    return path


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments, quick=True):
        return main(["map", *arguments, "-m", str(folder), *(QUICK if quick else [])])

    return call


@pytest.fixture
def unread(monkeypatch):
    """Fails the test where weights are read."""

    def read(*arguments, **options):
        raise AssertionError("weights were read")

    monkeypatch.setattr(session, "read_weights", read)


def settings_in(folder):
    return json.loads((folder / "settings.json").read_text())


def complete(folder):
    """The files of a folder, which are those that its settings list."""
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted([*settings_in(folder)["files"], "settings.json"])
    return names


def test_adjust(run, tmp_path, capsys):
    lambdas = ["--lambdas", "-1,0,.5", "--samplers", "ddim,lms", "-w", "red", "-w", "circle"]
    assert run("adjust", PROMPT, *lambdas, "-o", "out") == 0
    out = tmp_path / "out"
    assert complete(out) == [
        "1-red.png",
        "1-red.safetensors",
        "2-circle.png",
        "2-circle.safetensors",
        "samplers.csv",
        "settings.json",
    ]
    strips = load_file(out / "1-red.safetensors")
    assert sorted(strips) == ["ddim", "lms"] and strips["lms"].shape == (3, 3, 24, 32)
    settings = settings_in(out)
    assert settings["lambdas"] == [-1.0, 0.0, 0.5] and settings["words"] == ["red", "circle"]
    assert settings["model"] == "tiny" and settings["seed"] == 0
    assert capsys.readouterr().out.splitlines()[-1] == "out/settings.json"


@pytest.mark.parametrize(
    ("experiment", "options"),
    [("perturb", []), ("gradient", []), ("gradient", ["--method", "exact", "--origin", "empty"])],
)
def test_maps_of_words(run, tmp_path, experiment, options):
    assert run(experiment, PROMPT, *options) == 0
    assert run(experiment, PROMPT, *options) == 0  # the second run takes the next free folder
    out = tmp_path / "out" / f"{experiment}-0001"
    names = complete(out)
    assert names == complete(tmp_path / "out" / f"{experiment}-0002")
    assert {f"{experiment}.png", "strongest.png", "together.png", "maps.csv"} <= set(names)
    maps = load_file(out / "maps.safetensors")
    assert sorted(maps) == ["1-a", "2-red", "3-circle"]
    with (out / "maps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["word"] for row in rows] == ["a", "red", "circle"]
    for row in rows:
        assert maps[row["tensor"]].shape == (24, 32)
        assert float(row["largest"]) == pytest.approx(float(maps[row["tensor"]].max()), rel=1e-4)
    assert Image.open(out / "strongest.png").size == (32, 24)
    assert np.asarray(Image.open(out / "strongest.png")).any()


@pytest.mark.parametrize("experiment", ["adjust", "perturb", "gradient", "heat"])
def test_what_settings_say_can_be_given_again(run, tmp_path, experiment):
    text = "a red circle and a Red ring"
    assert run(experiment, text, "-w", "red:2", "-w", "ring", "-o", "first") == 0
    words = settings_in(tmp_path / "first")["words"]
    assert words == ["Red:2", "ring"]
    again = [flag for word in words for flag in ("-w", word)]
    assert run(experiment, text, *again, "-o", "again") == 0
    (first,) = {p.name for p in (tmp_path / "first").glob("*.safetensors")} & {
        "1-Red.safetensors",
        "maps.safetensors",
    }
    one, other = (load_file(tmp_path / place / first) for place in ("first", "again"))
    assert one.keys() == other.keys() and all((one[key] == other[key]).all() for key in one)


@pytest.mark.parametrize("experiment", ["adjust", "perturb", "gradient", "move"])
def test_a_run_that_was_stopped_goes_on(run, tmp_path, monkeypatch, capsys, experiment):
    prompts = [PROMPT, "a blue circle", "a green star"] if experiment == "move" else [PROMPT]
    whole = [experiment, *prompts, "--batch-size", "2"]
    assert run(*whole, "-o", "whole") == 0
    made = []
    real = Rendering._make

    def make(rendering, prompts, seeds):
        made.append(len(prompts))
        if len(made) == 2:
            raise KeyboardInterrupt
        return real(rendering, prompts, seeds)

    monkeypatch.setattr(Rendering, "_make", make)
    run(*whole, "-o", "parts")
    assert [p.name[:6] for p in (tmp_path / "parts").iterdir()] == ["state-"]
    assert run(*whole, "-o", "parts", "--resume", "--cfg-scale", "2") == 2
    assert "made with other settings" in capsys.readouterr().err
    count = len(made)
    assert run(*whole, "-o", "parts", "--resume") == 0
    names = complete(tmp_path / "parts")
    assert names == complete(tmp_path / "whole")
    for name in names:
        if name.endswith(".safetensors"):
            one, other = (load_file(tmp_path / place / name) for place in ("whole", "parts"))
            assert all((one[key] == other[key]).all() for key in one)
    again = made[count:]
    made.clear()
    made.extend([0, 0])
    assert run(*whole, "-o", "third") == 0
    assert sum(again) == sum(made) - 2  # the first batch was not made again
    assert run(*whole, "-o", "parts", "--resume") == 2
    assert "nothing to go on with" in capsys.readouterr().err


def test_a_long_run_says_beforehand_how_long_it_takes(run, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LONG", 0.0)
    assert run("perturb", PROMPT, "-w", "red", "-w", "circle", "--batch-size", "1") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "to go" in line]
    assert len(told) == 1 and "3 pictures of 2 steps" in told[0]
    assert "--resume -o out/perturb-0001 goes on" in told[0]
    assert [progress.duration(s) for s in (40.4, 420, 7500)] == ["40 s", "7 min", "2 h 5 min"]


def test_attention(run, tmp_path):
    assert (
        run("attention", PROMPT, "--layers", "0,2", "--heads", "1", "-o", "out", quick=False) == 0
    )
    out = tmp_path / "out"
    assert {"tokens.png", "words.png", "mean.png", "attention.csv"} <= set(complete(out))
    tensors = load_file(out / "attention.safetensors")
    assert tensors["tokens"].shape == (2, 1, 77, 77) and tensors["words"].shape == (2, 1, 3, 3)
    with (out / "attention.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["layer"] for row in rows} == {"0", "2"} and {row["head"] for row in rows} == {"1"}
    red = [row for row in rows if (row["layer"], row["from"], row["to"]) == ("2", "circle", "red")]
    assert float(red[0]["share"]) == pytest.approx(float(tensors["words"][1, 0, 2, 1]), abs=1e-5)
    settings = settings_in(out)
    assert settings["tokens"][1:4] == ["a", "red", "circle"] and "steps" not in settings


def test_words_of_several_prompts(run, tmp_path):
    assert run("words", PROMPT, "a dog", "--by-layer", "-o", "out", quick=False) == 0
    assert run("words", PROMPT, "--special", "-o", "special", quick=False) == 0
    assert complete(tmp_path / "out") == ["settings.json", "words.csv", "words.png"]
    with (tmp_path / "out" / "words.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["word"] for row in rows] == ["a", "red", "circle", "a", "dog"]
    for row in rows:
        layers = [float(row[f"layer {i}"]) for i in range(3)]
        assert float(row["mean"]) == pytest.approx(sum(layers) / 3, rel=1e-3)
    with (tmp_path / "special" / "words.csv").open() as file:
        assert sum(float(row["mean"]) for row in csv.DictReader(file)) == pytest.approx(6, abs=1e-3)


def test_heat(run, tmp_path):
    assert run("heat", PROMPT, "-o", "out") == 0
    out = tmp_path / "out"
    assert {"heat.png", "by-layer.png", "by-head.png", "by-call.png"} <= set(complete(out))
    shares = load_file(out / "shares.safetensors")
    assert shares["up 2.0.2-red"].shape == (3, 4, 6, 8)
    some = ["--layers", "*mid*", "--heads", "0,3", "--calls", "1:", "--ask", "a dog", "-w", "dog"]
    assert run("heat", PROMPT, *some, "-o", "some") == 0
    assert list(load_file(tmp_path / "some" / "maps.safetensors")) == ["1-dog"]
    assert settings_in(tmp_path / "some")["heads"] == [0, 3]


def test_a_latents_channels(run, tmp_path):
    assert run("latent", PROMPT, "-o", "out") == 0
    assert complete(tmp_path / "out") == [
        "latent.csv",
        "latent.png",
        "latent.safetensors",
        "settings.json",
    ]
    latent = load_file(tmp_path / "out" / "latent.safetensors")["latent"]
    with (tmp_path / "out" / "latent.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["mean"]) for row in rows] == pytest.approx(
        latent.mean(dim=(1, 2)).tolist(), rel=1e-4
    )
    assert all(float(row["change without it"]) > 0 for row in rows)


def test_a_film_ends_with_the_picture(run, tmp_path):
    assert run("film", PROMPT, "--sampler", "ddim", "-o", "out") == 0
    with Image.open(tmp_path / "out" / "film.gif") as film:
        assert film.n_frames == 3  # two steps and the picture
    raw = load_file(tmp_path / "out" / "film.safetensors")
    assert raw["x_t"].shape == raw["x0"].shape == (2, 4, 6, 8)
    with (tmp_path / "out" / "film.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["t"]) > float(rows[1]["t"])


def test_a_sweep_of_guidance(run, tmp_path, capsys):
    assert run("guidance", PROMPT, "--scales", "0,1,3", "--seeds", "2", "-o", "out") == 0
    assert run("perturb", PROMPT, "-w", "red", "--cfg-scale", "3", "-s", "1", "-o", "one") == 0
    strips = load_file(tmp_path / "out" / "guidance.safetensors")
    assert sorted(strips) == ["0", "1", "3"] and strips["3"].shape == (2, 3, 24, 32)
    assert not (strips["0"] == strips["1"]).all()
    assert run("guidance", PROMPT, "--cfg-scale", "3") == 2
    assert "give --scales" in capsys.readouterr().err


def test_the_field_needs_no_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = ["map", "field", "--steps", "3", "--paths", "2", "--samplers", "ddim"]
    assert main([*few, "--points", "-1:0,1:0.5", "-o", "out"]) == 0
    assert complete(tmp_path / "out") == [
        "field.csv",
        "field.png",
        "paths.safetensors",
        "settings.json",
    ]
    assert settings_in(tmp_path / "out")["points"] == [[-1, 0], [1, 0.5]]
    assert main([*few, "--points", "5:0"]) == 2
    assert main(["map", "field", "--samplers", "dimm"]) == 2
    assert "did you mean ddim" in capsys.readouterr().err


def test_move(run, tmp_path):
    prompts = [PROMPT, "a blue circle", "a green star"]
    assert run("move", *prompts, "--path", "1,2,-4:2.5", "--frames", "4", "-o", "out") == 0
    out = tmp_path / "out"
    assert complete(out) == ["move.gif", "places.csv", "plane.png", "settings.json", "strip.png"]
    with Image.open(out / "move.gif") as animation:
        assert animation.n_frames == 4
    with (out / "places.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["what"] for row in rows] == ["landmark"] * 3 + ["picture"] * 4
    assert rows[3]["component 1"] == rows[0]["component 1"]
    assert float(rows[-1]["component 1"]) == -4 and float(rows[-1]["component 2"]) == 2.5


def test_a_picture_at_a_landmark_says_so():
    marks = [[3.0, 1.0], [-2.0, 4.0]]
    assert reached([-2.0, 4.0 + 1e-9], marks) == ", landmark 2"
    assert reached([-2.0, 3.9], marks) == ""


def test_move_by_keys(run, tmp_path, monkeypatch, capsys):
    keys = iter("\x1b[A\x1b[C\x1bODDq")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sd_scratch.cli.map.keys.read_keys", lambda: named(lambda: next(keys, "")))
    prompts = [PROMPT, "a blue circle", "a green star"]
    assert run("move", *prompts, "--interactive", "--stride", "2", "-o", "out") == 0
    places = np.array(settings_in(tmp_path / "out")["places"])
    steps = np.diff(places, axis=0)
    assert np.allclose(steps, [[0, 2], [2, 0], [-2, 0]])
    assert (tmp_path / "out" / "current.png").is_file()
    told = capsys.readouterr().err
    assert "arrow keys" in told and "'D' does nothing" in told and "current.png" in told


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """CLIP with random weights in transformers' layout, small."""
    config = ClipConfig(
        TextEncoderConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1),
        ImageEncoderConfig(16, 8, 16, 16, 1, 4),
        8,
    )
    config = replace(config, text=replace(config.text, num_attention_heads=4))
    path = tmp_path_factory.mktemp("clip")
    save_file(liven(Clip(config)).state_dict(), path / "model.safetensors")
    parts = {"text_config": asdict(config.text), "vision_config": asdict(config.image)}
    data = {"model_type": "clip", "projection_dim": 8, **parts}
    (path / "config.json").write_text(json.dumps(data))
    return str(path)


def scores_in(folder):
    with (folder / "scores.csv").open() as file:
        return [(row["prompt"], row["seed"], row["score"]) for row in csv.DictReader(file)]


def test_noise_goes_on_where_it_stopped(run, tmp_path, clip, monkeypatch):
    whole = ["noise", PROMPT, "a shape", "--clip", clip, "-s", "3", "--batch-size", "2"]
    assert run(*whole, "--seeds", "5", "-o", "whole") == 0
    names = complete(tmp_path / "whole")
    assert {"scores.png", "variance.png", "scores.csv"} < set(names)
    assert sum(name.startswith("state-") for name in names) == 2

    drawn = []
    pictures = StableDiffusion.noise

    def noise(model, seeds, *size):
        drawn.extend([] if isinstance(seeds, int) else seeds)
        return pictures(model, seeds, *size)

    monkeypatch.setattr(StableDiffusion, "noise", noise)
    assert run(*whole, "--seeds", "2", "-o", "parts") == 0
    assert run(*whole, "--seeds", "5", "-o", "parts", "--resume") == 0
    assert sorted(drawn) == sorted([3, 4, 5, 6, 7] * 2)  # nothing twice
    expected, found = scores_in(tmp_path / "whole"), scores_in(tmp_path / "parts")
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert float(row[2]) == pytest.approx(float(other[2]), abs=0.5)  # batches round


def test_noise_in_several_processes(run, tmp_path, clip, monkeypatch):
    whole = ["noise", PROMPT, "a shape", "--clip", clip, "--seeds", "5", "--batch-size", "2"]
    assert run(*whole, "-o", "alone") == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        assert not (tmp_path / "shared" / "settings.json").exists()
        monkeypatch.setenv("RANK", rank)
        assert run(*whole, "-o", "shared") == 0
    alone, shared = scores_in(tmp_path / "alone"), scores_in(tmp_path / "shared")
    assert [row[:2] for row in alone] == [row[:2] for row in shared]
    for row, other in zip(alone, shared, strict=True):
        assert float(row[2]) == pytest.approx(float(other[2]), abs=0.5)
    assert run(*whole) == 2  # no folder to share
    monkeypatch.setenv("RANK", "2")
    assert run(*whole, "-o", "shared") == 1


def test_noise_is_not_mixed_with_other_settings(run, capsys):
    few = ["noise", PROMPT, "--clip", "none", "--seeds", "2", "-o", "here"]
    assert run(*few) == 0
    assert run(*few) == 2
    assert run(*few, "--resume", "--cfg-scale", "2") == 2
    assert "made with other settings" in capsys.readouterr().err


def test_keys():
    assert list(named(iter("a\x1b[D\xe0H\x04b").__next__)) == ["a", "left", "up"]
    assert list(named(lambda: "")) == []


def test_escape_alone_ends_and_an_arrow_does_not(monkeypatch):
    ours, theirs = os.openpty()
    monkeypatch.setattr("sys.stdin", os.fdopen(theirs))
    tty.setraw(theirs)
    os.write(ours, b"\x1b[Aa")
    keys = named(typed().__next__)
    assert [next(keys), next(keys)] == ["up", "a"]
    os.write(ours, b"\x1b")
    assert list(keys) == []


def test_results_are_not_replaced_unless_asked(run, capsys):
    assert run("perturb", PROMPT, "-w", "red", "-o", "here") == 0
    assert run("perturb", PROMPT, "-w", "red", "-o", "here") == 2
    assert "holds results already" in capsys.readouterr().err
    assert run("perturb", PROMPT, "-w", "red", "-o", "here", "--overwrite") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["perturb", PROMPT, "-w", "cat"], "no word 'cat' in the prompt"),
        (["perturb", "a cat and a cat", "-w", "cat"], "stands 2 times in the prompt"),
        (["gradient", "a cat and a cat", "-w", "cat:3"], "there is no number 3"),
        (["adjust", PROMPT + " AND a cat", "-w", "red"], "AND at character"),
        (["perturb", "a [red:blue:0.5] star"], "another one at another step"),
        (["heat", PROMPT, "--ask", "a [cat|dog]"], "another one at another step"),
        (["perturb", "!"], "no words to map"),
        (["adjust", PROMPT, "--lambdas", ""], "the list is empty"),
        (["adjust", PROMPT, "--lambdas", "1,x"], "'x' is not a number"),
        (["adjust", PROMPT, "--samplers", "ddim,dimm"], "did you mean ddim"),
        (["perturb", PROMPT, "--sampler", "nothing"], "sampler 'nothing' is unknown"),
        (["perturb", PROMPT, "--dtype", "float16"], "drown in the rounding of float16"),
        (["gradient", PROMPT, "--dtype", "bfloat16"], "drown in the rounding of bfloat16"),
        (["gradient", PROMPT, "--lambda", "0"], "0 changes nothing"),
        (["gradient", PROMPT, "--method", "backward"], "unknown 'backward'"),
        (["attention", ""], "no words to map"),
        (["attention", PROMPT, "--layers", "3"], "there is no layer 3, only 0 to 2"),
        (["attention", PROMPT, "--heads", ""], "the list is empty"),
        (["words", PROMPT, "?"], "no words to map"),
        (["heat", PROMPT, "--ask", "a dog", "-w", "red"], "no word 'red' in the prompt"),
        (["heat", PROMPT, "--layers", "up"], "no layer is named 'up'"),
        (["heat", PROMPT, "--heads", "4"], "there is no head 4, only 0 to 3"),
        (["heat", PROMPT, "--calls", "3"], "'3' is not FROM:TO"),
        (["move", PROMPT, "a dog"], "2 components need at least 3 different prompts"),
        (["move", PROMPT, "a dog", PROMPT], "2 components need at least 3 different prompts"),
        (["move", PROMPT, "a dog", "a cat", "--path", "1,4"], "no landmark 4, of 3"),
        (["move", PROMPT, "a dog", "a cat", "--path", "1,1:x"], "'1:x' is no place"),
        (["move", PROMPT, "a dog", "a cat", "--interactive"], "needs a terminal"),
        (["noise", PROMPT, "--resume"], "--resume needs a folder"),
        (["noise", PROMPT, PROMPT], "a prompt was given twice"),
        (["noise", PROMPT, "--clip", "nothing"], "no folder, and no hub id"),
        (["move", PROMPT, "a dog", "a cat", "--frames", "2"], "--frames 2 are too few"),
    ],
)
def test_bad_input_is_one_line_and_exit_2_before_any_weights(
    run, unread, capsys, tmp_path, arguments, message
):
    assert run(*arguments, quick=False) == 2
    assert not list(tmp_path.glob("out/*"))
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_a_negative_number_may_start_the_list(run, tmp_path):
    assert run("adjust", PROMPT, "-w", "red", "--lambdas", "-.5", "-o", "out") == 0
    assert settings_in(tmp_path / "out")["lambdas"] == [-0.5]


@pytest.mark.parametrize(
    ("size", "batch"), [([], 8), (["-W", "512"], 1), (["--batch-size", "3"], 3)]
)
def test_large_pictures_are_made_one_at_a_time(folder, size, batch):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["perturb", PROMPT, "-m", str(folder), *size])
    assert session.Session(args).batch_size == batch


def test_the_sources_settings_are_one_flag(folder, caplog):
    caplog.set_level("INFO")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["perturb", PROMPT, "-m", str(folder), "--thesis", "--steps", "3"])
    recipe = session.Session(args).recipe
    assert (recipe.steps, recipe.guidance, recipe.width, recipe.height) == (3, 7.5, 512, 512)
    assert recipe.sampler == "pndm"
    assert session.THESIS["model"] == "CompVis/stable-diffusion-v1-4"
    assert "--thesis sets guidance 7.5, width 512, height 512, sampler pndm" in caplog.text


def test_guidance_warns_of_its_largest_scale(run, capsys):
    assert run("guidance", PROMPT, "--scales", "1,50", "--seeds", "1", "-o", "out") == 0
    assert "guidance 50 is far beyond the usual" in capsys.readouterr().err


def test_ready_sets_of_prompts(run, tmp_path, capsys):
    few = ["--clip", "none", "--seeds", "2"]
    assert run("noise", "--prompts", "scenes", *few, "-o", "out") == 0
    assert settings_in(tmp_path / "out")["prompts"][-1] == "a shape"
    assert all(len(set(texts)) == 5 for texts in PROMPTS.values())
    assert run("noise", PROMPT, "--prompts", "scenes", *few) == 2
    assert run("noise", *few) == 2
    assert "ready set" in capsys.readouterr().err


def test_bars_of_one_head(run, tmp_path):
    one = ["--layers", "1", "--heads", "2"]
    assert run("words", PROMPT, *one, "-o", "words", quick=False) == 0
    assert run("attention", PROMPT, *one, "-o", "attention", quick=False) == 0
    words = load_file(tmp_path / "attention" / "attention.safetensors")["words"]
    with (tmp_path / "words" / "words.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["mean"]) for r in rows] == pytest.approx(words[0, 0].sum(0).tolist(), rel=1e-4)
    assert settings_in(tmp_path / "words")["heads"] == [2]


def test_help_of_every_experiment(capsys):
    for experiment in EXPERIMENTS:
        assert main(["map", experiment, "--help"]) == 0
        assert "-o FOLDER" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["mapping.md", "course/11-what-makes-what.md"])
def test_what_a_page_tells_to_type_is_understood_and_what_it_points_to_is_there(name):
    page = Path(__file__).parents[2] / "docs" / name
    text = page.read_text(encoding="utf-8")
    lines = re.findall(r"^(?:sd-scratch|torchrun .* sd_scratch) (map .*)$", text, re.MULTILINE)
    told = {shlex.split(line)[1] for line in lines}
    assert told >= {"adjust", "words", "perturb", "noise", "move"}
    for line in lines:
        parser = Parser()
        add_arguments(parser)
        parser.parse_args(shlex.split(line)[1:])
    for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(textwrap.dedent(example), name, "exec")
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / target).is_file(), target
