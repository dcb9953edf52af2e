"""A run that begins with a picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sd_scratch.checkpoints.save import save_folder
from sd_scratch.cli import main
from sd_scratch.dialects.stored_recipe import read_recipe
from sd_scratch.errors import UsageError
from tests.tiny import tiny_components, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def picture(model):
    side = model.config.sample_size
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return model.encode(Image.fromarray(noise), seed=3)


@pytest.mark.parametrize("sampler", ["ddim", "pndm", "euler", "dpmpp_2m", "euler_a"])
@pytest.mark.parametrize(
    ("strength", "left"), [(1.0, 10), (0.75, 7), (0.5, 5), (0.1, 1), (0.01, 1)]
)
def test_the_share_of_the_steps_that_is_taken(model, picture, sampler, strength, left):
    """diffusers' img2img: int(steps * strength), from timesteps[steps - that]."""
    begun = model.begin(picture, strength, sampler=sampler, steps=10)
    steps = list(model.steps("a red circle", begun, sampler=sampler, steps=10))
    whole = list(model.steps("a red circle", model.noise(3), sampler=sampler, steps=10))
    assert [step.t for step in steps] == [step.t for step in whole][10 - left :]
    assert steps[0].alpha_bar == whole[10 - left].alpha_bar


def test_the_noise_is_the_seeds_first(model, picture):
    begun = model.begin(picture, 0.5, sampler="ddim", steps=10)
    noise, alpha_bar = model.noise(3).latent, float(model.schedule.alpha_bar[int(begun.t)])
    assert torch.allclose(
        begun.latent, alpha_bar**0.5 * picture.latent + (1 - alpha_bar) ** 0.5 * noise, atol=1e-6
    )


def test_no_strength_is_the_picture_itself(model, picture):
    assert model.begin(picture, 0.0) is picture
    for strength in (-0.1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="from 0 to 1|nan is not a number"):
            model.begin(picture, strength)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    save_folder(tiny_components(), tmp_path / "tiny")
    Image.new("RGB", (37, 20), "red").save("red.png")
    return str(tmp_path / "tiny")


def generate(folder: str, *words: str) -> int:
    return main(["generate", "a circle", "-m", folder, "--steps", "4", "-s", "1", *words])


def test_the_command_begins_with_a_picture(folder, capsys):
    assert generate(folder, "-i", "red.png", "--strength", "0.5", "-o", "a.png") == 0
    assert "resized from 37x20 to 32x16" in capsys.readouterr().err
    recipe, _ = read_recipe(Path("a.png"))
    assert (recipe.init_image, recipe.strength) == ("red.png", 0.5)
    assert (recipe.width, recipe.height) == (32, 16)

    assert main(["generate", "--from-image", "a.png", "-m", folder, "-o", "b.png"]) == 2
    assert "began with the picture red.png" in capsys.readouterr().err
    assert (
        main(["generate", "--from-image", "a.png", "-m", folder, "-i", "red.png", "-o", "b.png"])
        == 0
    )
    with Image.open("a.png") as a, Image.open("b.png") as b:
        assert a.tobytes() == b.tobytes()


def test_strength_zero_says_so(folder, capsys):
    assert generate(folder, "--init-img", "red.png", "--strength", "0", "-o", "a.png") == 0
    assert "nothing is made anew" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--strength", "0.5"], "without a picture"),
        (["-i", "missing.png"], "missing.png"),
        (["-i", "red.png", "--strength", "2"], "0 to 1"),
    ],
)
def test_bad_usage(folder, words, line, capsys):
    assert generate(folder, *words, "-o", "a.png") in (1, 2)
    err = capsys.readouterr().err
    assert line in err and err.count("\n") <= 2
    assert not Path("a.png").exists()
