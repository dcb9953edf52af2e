"""ControlNets from flags and from a picture's recipe, which chooses no file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import sd_scratch
from sd_scratch.cli import main
from sd_scratch.config import TINY, ControlNetConfig
from sd_scratch.dialects.stored_recipe import read_recipe
from sd_scratch.errors import ScratchError
from sd_scratch.networks.controlnet import ControlNet
from sd_scratch.pictures.hints import canny
from sd_scratch.pipeline.adapters import ControlUse
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json
from tests.lively import liven

SMALL = ["--width=32", "--height=32", "--steps=2", "--seed=7"]
WISH = ["--control-net=net.safetensors", "--control-image=hint.png"]


@pytest.fixture
def run(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with torch.device("meta"):
        network = ControlNet(ControlNetConfig(TINY.unet, conditioning_widths=(8, 16, 24)))
    save_file(liven(network, 4).state_dict(), "net.safetensors")
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("hint.png")
    return lambda *words: main(["generate", *words, "-m", str(tiny_folder), "--device=cpu"])


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_it_is_the_picture_that_python_makes(run, tiny_folder):
    more = ["--control-strength=0.7", "--control-end=0.9", "--canny=50:150"]
    assert run("a cat", *SMALL, *WISH, *more, "-o", "a.png") == 0
    assert run("a cat", *SMALL, "-o", "plain.png") == 0
    model = sd_scratch.load(str(tiny_folder)).with_control("net.safetensors")
    with Image.open("hint.png") as picture:
        control = sd_scratch.Control(canny(picture, 50, 150), 0.7, end=0.9)
    result = model.generate("a cat", model.noise(7, 32, 32), steps=2, control=control)
    assert np.array_equal(pixels("a.png"), np.asarray(result.to_pil()[0]))
    assert not np.array_equal(pixels("a.png"), pixels("plain.png"))


def test_a_picture_is_repeated_where_its_files_are_named(run, capsys):
    assert (
        run("a cat", *SMALL, *WISH, "--control-strength=0.7", "--control-guess", "-o", "a.png") == 0
    )
    recipe, _ = read_recipe(Path("a.png"))
    (use,) = recipe.controls or ()
    assert use._replace(hash="") == ControlUse("net", 0.7, guess=True) and len(use.hash) == 12
    assert run("--from-image=a.png", "-o", "b.png") == 2
    assert "steered by the ControlNet net - give it with --control-net" in capsys.readouterr().err
    assert run("--from-image=a.png", *WISH, "-o", "c.png") == 0
    assert np.array_equal(pixels("a.png"), pixels("c.png"))


def test_a_hint_of_another_size_is_resized_and_said(run, capsys):
    Image.new("RGB", (40, 20), "white").save("hint.png")
    assert run("a cat", *SMALL, *WISH, "-o", "a.png") == 0
    assert "the hint of net is resized from 40x20 to 32x32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--control-net=net.safetensors"], "1 --control-net and 0 --control-image"),
        (["--control-net=nowhere", "--control-image=hint.png"], "nowhere - there is no such file"),
        ([*WISH, "--canny=a"], "write LOW:HIGH"),
        ([*WISH, "--control-start=0.9", "--control-end=0.1"], "start is first"),
        ([*WISH, "--control-strength=nan"], "not a number from"),
    ],
)
def test_what_cannot_be_is_said_before_loading(run, capsys, words, message):
    try:
        code = run("a cat", *SMALL, *words, "-o", "a.png")
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and message in capsys.readouterr().err


def test_a_stored_control_is_checked():
    recipe = Recipe(
        "a",
        syntax="plain",
        controls=(ControlUse("net", 0.5, 0.1, 0.9, True, True, "50:150", "ab12"),),
    )
    assert recipe_from_json(recipe.to_json(), "x.png") == recipe
    for bad in (5, [["net"]], [["net", 1, 0.9, 0.1, True, True, "", ""]],
                [["net", 1, 0, 1, False, False, "rm -rf", ""]]):  # fmt: skip
        import json

        with pytest.raises(ScratchError, match="`controls` must be"):
            recipe_from_json(json.dumps({"prompt": "a", "controls": bad}), "x.png")


def test_residuals_are_traced(run, tiny_folder):
    words = [
        "trace",
        "a",
        *SMALL,
        *WISH,
        "-m",
        str(tiny_folder),
        "--tensors=unet.control.0",
        "-o",
        "t",
    ]
    assert main(words) == 0
    assert sd_scratch.Trace.load("t")["unet.control.0"].tensor.abs().max() > 0
