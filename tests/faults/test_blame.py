"""Runs whose numbers are no longer finite: the message names what is at fault, and fits the caller."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sd_scratch as sd
from sd_scratch.checkpoints import Components, save_folder
from sd_scratch.checkpoints.pixel_model import load_pixel_model, save_pixel_model
from sd_scratch.checkpoints.shipped import weights_folder
from sd_scratch.cli import main
from sd_scratch.errors import NotFinite
from sd_scratch.pipeline.pixel_diffusion import PixelDiffusion
from tests.tiny import tiny_components

SMALL = ["--width=32", "--height=32", "--steps=2", "--seed=7", "--device=cpu"]


def broken(part: str, name: str, value: float) -> Components:
    components = tiny_components()
    dict(getattr(components, part).named_parameters())[name].data.flatten()[0] = value
    return components


def message(act: Callable[[], object]) -> NotFinite:
    with pytest.raises(NotFinite) as caught:
        act()
    assert "\n" not in str(caught.value) and "--" not in str(caught.value)
    return caught.value


def picture(components: Components, **settings: object) -> None:
    model = sd.StableDiffusion(components)
    model.generate("a", model.noise(1, 32, 32), steps=2, **settings).decode()


@pytest.mark.parametrize(
    ("part", "name", "value", "expected"),
    [
        ("text", "final_layer_norm.bias", math.nan, "the weights text.final_layer_norm.bias"),
        (
            "unet",
            "mid_block.resnets.0.conv1.weight",
            math.nan,
            "the weights unet.mid_block.resnets.0",
        ),
        (
            "unet",
            "conv_in.bias",
            math.inf,
            "the weights unet.conv_in.bias are not - get the model's",
        ),
        (
            "unet",
            "conv_in.bias",
            3e38,
            "unet.down_blocks.0.resnets.0.norm1 overflows, whose weights",
        ),
        ("vae", "decoder.conv_in.bias", 3e38, "vae.decoder.mid_block.resnets.0.norm1 overflows"),
        ("vae", "decoder.conv_out.weight", math.nan, "the weights vae.decoder.conv_out.weight"),
    ],
)
def test_weights_and_layers_are_named(part: str, name: str, value: float, expected: str) -> None:
    error = message(lambda: picture(broken(part, name, value)))
    assert expected in str(error) and error.lever == ""
    assert str(error).startswith(
        "the decoded picture is not" if part == "vae" else "the sample of step 1 of 2 is not"
    )


def test_a_guidance_scale_that_is_too_large() -> None:
    error = message(lambda: picture(tiny_components(), guidance=1e38))
    assert "unet is in order - lower the guidance scale" in str(error)
    assert error.lever == "guidance"


def test_half_precision_that_overflows() -> None:
    components = broken("unet", "conv_in.bias", 6e4)
    half = replace(
        components,
        text=components.text.half(),
        unet=components.unet.half(),
        vae=components.vae.half(),
    )
    dict(half.unet.named_parameters())["down_blocks.0.resnets.0.norm1.weight"].data.fill_(6e4)
    error = message(lambda: picture(half))
    assert "overflows in fp16 - compute in float32" in str(error) and error.lever == "dtype"


def test_a_model_of_pixels_has_no_flags_of_the_large_one() -> None:
    components = load_pixel_model("ddpm-mnist")
    model = PixelDiffusion(components)
    dict(model.unet.named_parameters())["conv_in.bias"].data[0] = math.nan
    error = message(lambda: model.generate([1], [1], steps=2))
    assert "the sample of step 1 of 2 is not finite" in str(error)
    assert "the weights unet.conv_in.bias are not" in str(error)


def test_the_command_line_adds_the_flag(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    save_folder(tiny_components(), tmp_path / "model")
    words = ["generate", "a", "-m", "model", *SMALL, "--cfg-scale=1e9"]
    real = sd.StableDiffusion.steps

    def far(self, *arguments, **settings):
        return real(self, *arguments, **{**settings, "guidance": 1e38})

    monkeypatch.setattr(sd.StableDiffusion, "steps", far)
    assert main(words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the sample of step 1 of 2 is not finite")
    assert error.endswith("lower the guidance scale (--cfg-scale)")


def test_a_sheet_of_broken_weights(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    components = load_pixel_model("ddpm-mnist")
    model = Path(shutil.copytree(weights_folder() / "ddpm-mnist", tmp_path / "model"))
    dict(components.network.named_parameters())["conv_in.bias"].data[0] = 3e38
    save_pixel_model(components, model, torch.float32)
    assert main(["sample", "mnist", "-m", "model", "--steps", "2", "--rows", "1", "-b", "1"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "overflows, whose weights are too large - try another model" in error
    assert "--" not in error and not list(tmp_path.glob("*.png"))
