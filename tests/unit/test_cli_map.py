"""``sd-scratch map`` on a tiny model: what it writes, and what it refuses before it reads weights."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from sd_scratch.checkpoints.save import save_folder
from sd_scratch.cli import main
from sd_scratch.cli.map import session
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

    monkeypatch.setattr(session, "build_components", read)


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
        (["adjust", "very " * 90 + "red", "-w", "red"], "beyond the last token"),
        (["perturb", "!"], "no words to map"),
        (["adjust", PROMPT, "--lambdas", ""], "the list is empty"),
        (["adjust", PROMPT, "--lambdas", "1,x"], "'x' is not a number"),
        (["adjust", PROMPT, "--samplers", "ddim,dimm"], "did you mean ddim"),
        (["perturb", PROMPT, "--sampler", "nothing"], "sampler 'nothing' is unknown"),
        (["perturb", PROMPT, "--dtype", "float16"], "drown in the rounding of float16"),
        (["gradient", PROMPT, "--dtype", "bfloat16"], "drown in the rounding of bfloat16"),
        (["gradient", PROMPT, "--lambda", "0"], "0 changes nothing"),
        (["gradient", PROMPT, "--method", "backward"], "unknown 'backward'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2_before_any_weights(
    run, unread, capsys, arguments, message
):
    assert run(*arguments, quick=False) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_a_negative_number_may_start_the_list(run, tmp_path):
    assert run("adjust", PROMPT, "-w", "red", "--lambdas", "-.5", "-o", "out") == 0
    assert settings_in(tmp_path / "out")["lambdas"] == [-0.5]


def test_help_of_every_experiment(capsys):
    for experiment in session_experiments():
        assert main(["map", experiment, "--help"]) == 0
        assert "-o FOLDER" in capsys.readouterr().out


def session_experiments():
    from sd_scratch.cli.map import EXPERIMENTS

    return EXPERIMENTS
