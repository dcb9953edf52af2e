"""The shipped models of pixels: their folders are whole, and what they make is what was asked for."""

import json
import re

import pytest
import torch
from PIL import Image
from torch import Tensor

from sd_scratch.checkpoints.pixel_model import list_pixel_models
from sd_scratch.checkpoints.shipped import weights_folder
from sd_scratch.cli import main
from sd_scratch.pipeline.pixel_diffusion import load_pixels

MNIST, FASHION, CIFAR = "ddpm-mnist", "ddpm-fashion-mnist", "ddpm-cifar10"
MODELS = [MNIST, FASHION, CIFAR]
LARGEST = 8_000_000  # bytes


@pytest.fixture(scope="module")
def models():
    return {name: load_pixels(name) for name in MODELS}


def make(model, classes: list[str], count: int = 6) -> Tensor:
    """``[classes, count, C, S, S]`` in 0..1, in few steps."""
    numbers = [model.config.class_names.index(name) for name in classes for _ in range(count)]
    pictures = model.generate(numbers, list(range(len(numbers))), steps=8)
    return (pictures.unflatten(0, (len(classes), count)) + 1) / 2


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_holds_a_model_and_its_card_and_nothing_else(name):
    folder = weights_folder() / name
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert files.keys() == {"README.md", "config.json", "model.safetensors"}
    assert files["model.safetensors"] < LARGEST
    assert json.loads((folder / "config.json").read_text())["name"] == name
    assert name in list_pixel_models()


@pytest.mark.parametrize("name", MODELS)
def test_a_card_gives_data_recipe_and_figures(name):
    card = (weights_folder() / name / "README.md").read_text(encoding="utf-8")
    for words in ("## Data", "## Recipe", "## Figures", "## Licence"):
        assert words in card
    assert re.search(r"^- [\d,]+ steps of \d+ pictures", card, re.MULTILINE)
    assert "Not measured yet" not in card


def test_the_command_needs_nothing_but_a_class(tmp_path, capsys):
    sheet = tmp_path / "sevens.png"
    assert (
        main(["sample", "mnist", "--class", "7", "-b", "4", "--steps", "4", "-o", str(sheet)]) == 0
    )
    assert capsys.readouterr().out.splitlines()[-1] == str(sheet)
    assert Image.open(sheet).convert("L").getextrema()[1] > 200  # ink


def test_a_nought_is_hollow_and_a_one_is_not(models):
    noughts, ones = make(models[MNIST], ["0", "1"])[:, :, 0, 12:16, 12:16].mean(dim=(2, 3))
    assert noughts.mean() < 0.2 < 0.5 < ones.mean()


def test_digits_are_ink_on_black(models):
    digits = make(models[MNIST], list("0123456789"), count=1)
    edge = torch.cat([digits[..., :2, :].flatten(), digits[..., -2:, :].flatten()])
    assert edge.mean() < 0.08 < digits.mean() < 0.3


def test_trousers_are_tall_and_sneakers_low(models):
    trousers, sneakers = make(models[FASHION], ["trouser", "sneaker"])[:, :, 0]
    top = slice(0, 7)
    assert trousers[:, top].mean() > 0.1 > sneakers[:, top].mean()
    assert trousers[:, :, :6].mean() < 0.1 < sneakers[:, 14:20, :6].mean()


def test_the_sky_and_the_sea_are_bluer_than_a_meadow(models):
    model = models[CIFAR]
    asked = [model.config.class_names.index(name) for name in ("airplane", "ship", "deer", "frog")]
    noise = list(range(4)) * 4  # the same for every class, so that the class makes the difference
    pictures = model.generate([c for c in asked for _ in range(4)], noise, steps=8)
    red, _, blue = (pictures.unflatten(0, (4, 4)) + 1).div(2).mean(dim=(1, 3, 4)).unbind(1)
    airplane, ship, deer, frog = blue - red
    # 0.13 whatever the noise; at most 0.06 where the classes are moved on by one or more
    assert (airplane + ship) / 2 > (deer + frog) / 2 + 0.09
