"""From a picture's file to its noise and back, by two commands."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import sd_scratch as sd
from sd_scratch.cli import main
from sd_scratch.errors import UsageError
from sd_scratch.mapping.inversion import invert
from sd_scratch.pipeline.recipe import Recipe
from tests.tiny import tiny_model

PROMPT = "a large red heart on a blue background"


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / ((a.astype(float) - b.astype(float)) ** 2).mean()))


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_way_back_shows_the_picture() -> None:
    model = sd.load()
    (made,) = model.run(Recipe(PROMPT, seed=7, steps=12))
    picture = made.to_pil()[0]
    picture.save("a.png")
    assert main(["invert", "a.png", "-p", PROMPT, "--steps=50", "-o", "n.safetensors"]) == 0
    assert main(["generate", "--init-noise", "n.safetensors", "-o", "b.png"]) == 0
    again = np.asarray(Image.open("b.png"))
    assert psnr(np.asarray(picture), again) > 32
    noise = load_file("n.safetensors")["noise"]
    direct = invert(model, PROMPT, model.encode(picture), steps=50)
    assert torch.equal(noise, direct.latent)
    # Another prompt goes over the file's.
    words = ["generate", PROMPT.replace("red", "green"), "--init-noise", "n.safetensors"]
    assert main([*words, "--cfg-scale=3", "-o", "c.png"]) == 0
    assert psnr(again, np.asarray(Image.open("c.png"))) < 25


@pytest.fixture
def files(tiny_folder: Path) -> Path:
    Image.new("RGB", (35, 32), "red").save("a.png")
    words = ["invert", "a.png", "-m", str(tiny_folder), "--device=cpu", "--steps=2"]
    assert main([*words, "-o", "n.safetensors"]) == 0
    return tiny_folder


def test_what_does_not_fit_is_said(files: Path, capsys) -> None:
    tiny = ["-m", str(files), "--device=cpu", "-o", "x.png"]
    begin = ["generate", "--init-noise", "n.safetensors"]
    assert main([*begin, *tiny]) == 0
    assert Image.open("x.png").size == (32, 32)  # what was left over of a cell is cut off
    capsys.readouterr()
    for words, code, said in (
        ([*begin, *tiny, "--overwrite", "-W", "64"], 2, "the noise to begin with is 1 x 4 x 8 x 8"),
        ([*begin, "-o", "y.png"], 2, "name the model with -m"),
        ([*begin, *tiny, "--overwrite", "--init-image", "a.png"], 2, "a start of its own"),
        (["generate", "--from-image", "x.png", *tiny, "--overwrite"], 2, "--init-noise"),
        (["generate", "--init-noise", "no.safetensors", *tiny, "--overwrite"], 2, "no such file"),
        (
            ["generate", "--init-noise", "other.safetensors", *tiny, "--overwrite"],
            1,
            "holds no noise",
        ),
    ):
        save_file({"latents": torch.zeros(1, 4, 8, 8)}, "other.safetensors")
        assert main(words) == code, words
        assert said in capsys.readouterr().err


def test_a_run_without_its_noise_is_refused() -> None:
    model = tiny_model()
    with pytest.raises(UsageError, match="begins with the noise of n"):
        next(model.run(Recipe("a cat", steps=1, init_noise="n")))
    noise = model.noise(0, 32, 32).latent
    with pytest.raises(UsageError, match="not with both"):
        next(
            model.run(
                Recipe("a cat", steps=1), init_noise=noise, init_image=Image.new("RGB", (32, 32))
            )
        )
