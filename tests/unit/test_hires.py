"""Two passes: the steps at a strength, the ways to enlarge, and the recipe that says so."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sd_scratch.cli import main
from sd_scratch.dialects.a1111 import recipe_from_parameters
from sd_scratch.dialects.hires import scale_to
from sd_scratch.errors import UsageError
from sd_scratch.pictures.png import encode_png
from sd_scratch.pipeline.part_way import UPSCALERS, enlarged, larger, part_of
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json
from sd_scratch.pipeline.run import count_steps, count_work
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.stop import Stop
from tests.tiny import tiny_model

A1111 = (
    "a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x768, Denoising strength: 0.55,"
    " {}, Version: v1.10.1"
)


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return tiny_model()


@pytest.mark.parametrize(
    ("counted", "steps", "strength", "part"),
    [
        ("diffusers", 50, 0.75, (50, 37)),
        ("diffusers", 20, 0.01, (20, 1)),
        ("diffusers", 20, 1.0, (20, 20)),
        ("a1111", 20, 0.75, (20, 16)),
        ("a1111", 20, 1.0, (20, 20)),
        ("a1111", 20, 0.01, (20, 1)),
        ("comfy", 20, 0.75, (26, 20)),
        ("comfy", 20, 1.0, (20, 20)),
        ("comfy", 10, 0.3, (33, 10)),
    ],
)
def test_the_steps_at_a_strength(
    model: StableDiffusion, counted: str, steps: int, strength: float, part: tuple[int, int]
) -> None:
    assert part_of(steps, strength, counted)[:2] == part
    noise = model.begin(
        model.generate("a cat", model.noise(0, 32, 32), steps=1),
        strength,
        steps=steps,
        counted=counted,
    )
    walked = list(model.steps("a cat", noise, steps=part[0], sampler="ddim"))
    assert len(walked) == part[1]


def test_two_passes_are_what_they_say(model: StableDiffusion) -> None:
    recipe = Recipe(
        "a cat", seed=5, steps=4, width=32, height=40, hires_scale=2.0, hires_strength=0.5,
        hires_steps=6, negative_prompt="",
    )  # fmt: skip
    (made,) = model.run(recipe)
    first = model.generate("a cat", model.noise(5, 32, 40), steps=4)
    larger = first.with_latent(F.interpolate(first.latent, size=(20, 16), mode="bilinear"), t=0)
    second = model.generate("a cat", model.begin(larger, 0.5, steps=6), steps=6)
    assert torch.equal(made.latents.latent, second.latent)
    assert (made.latents.width, made.latents.height) == (64, 80)
    assert made.recipes[0].hires_method == "latent"
    (again,) = model.run(recipe_from_json(made.recipes[0].to_json(), "x"))
    assert torch.equal(again.latents.latent, second.latent)


def test_what_changes_in_a_prompt_goes_on_in_the_second_pass(model: StableDiffusion) -> None:
    settings = {
        "seed": 5,
        "steps": 4,
        "width": 32,
        "height": 32,
        "hires_scale": 2.0,
        "hires_strength": 1.0,
    }
    (made,) = model.run(Recipe("a [cat:dog:0.5]", **settings))
    first = model.generate("a [cat:dog:0.5]", model.noise(5, 32, 32), steps=4)
    larger = first.with_latent(F.interpolate(first.latent, size=(16, 16), mode="bilinear"), t=0)
    second = model.generate("a dog", model.begin(larger, 1.0, steps=4), steps=4)
    assert torch.equal(made.latents.latent, second.latent)


def test_what_changes_in_a_prompt_is_counted_as_a1111_does(model: StableDiffusion) -> None:
    picture = Image.new("RGB", (32, 32), "red")

    def made(prompt: str, counted: str) -> torch.Tensor:
        recipe = Recipe(prompt, seed=1, steps=8, strength=0.5, strength_steps=counted)
        (only,) = model.run(recipe, init_image=picture)
        return only.latents.latent

    assert torch.equal(made("a [cat:dog:0.5]", "a1111"), made("a cat", "a1111"))  # 5 steps of 8
    assert not torch.equal(made("a [cat:dog:0.25]", "a1111"), made("a cat", "a1111"))
    assert not torch.equal(made("a [cat:dog:0.5]", "diffusers"), made("a cat", "diffusers"))


@pytest.mark.parametrize("method", UPSCALERS)
def test_every_way_to_enlarge(model: StableDiffusion, method: str) -> None:
    image = model.generate("a cat", model.noise(5, 32, 32), steps=2)
    larger = enlarged(image, 1.55, method)
    if UPSCALERS[method].picture is not None:
        assert isinstance(larger, list)
        assert larger[0].size == (48, 48)  # 49.6, down to whole cells of 4 pixels
        return
    assert not isinstance(larger, list)
    assert larger.latent.shape == (1, 4, 12, 12)
    mode, antialias = UPSCALERS[method].mode, UPSCALERS[method].antialias
    more = {"antialias": True} if antialias else {}
    assert torch.equal(larger.latent, F.interpolate(image.latent, size=(12, 12), mode=mode, **more))
    recipe = Recipe("a cat", steps=2, width=32, height=32, hires_scale=1.5, hires_method=method)
    assert recipe_from_parameters(recipe.to_parameters(), "x")[0].hires_method == method


def test_the_second_pass_of_a1111_takes_all_its_steps(model: StableDiffusion) -> None:
    recipe = Recipe(
        "a cat", steps=4, width=32, height=32, hires_scale=2.0, hires_strength=0.5, hires_steps=3,
        seed=1,
    )  # fmt: skip
    assert count_steps(model, recipe) == 4 + 1
    recipe = recipe.over(strength_steps="a1111")
    assert count_steps(model, recipe) == 4 + 3
    assert count_work(model, recipe) == 4 * 64 + 3 * 256
    seen: list[int] = []
    list(model.run(recipe, on_step=lambda step: seen.append(step.x_t.shape[-1])))
    assert seen == [8] * 4 + [16] * 3


def test_a_stop_in_either_pass_ends_the_run(model: StableDiffusion) -> None:
    recipe = Recipe("a cat", steps=2, seed=1, width=32, height=32, hires_scale=2.0)
    for after in (2, 3):
        stop, taken = Stop(), []

        def on_step(
            step: object, stop: Stop = stop, taken: list = taken, after: int = after
        ) -> None:
            taken.append(step)
            if len(taken) == after:
                stop.asked = True

        made = list(model.run(recipe.over(hires_strength=1.0), on_step=on_step, stop=stop))
        assert (made, len(taken)) == ([], 3)  # a pass that is at its end is finished


@pytest.mark.parametrize(
    ("said", "expected", "left"),
    [
        ("Hires upscale: 2, Hires upscaler: Latent", (2.0, "latent", None), ()),
        ("Hires upscale: 1.5, Hires steps: 10, Hires upscaler: Lanczos", (1.5, "lanczos", 10), ()),
        (
            "Hires upscale: 2, Hires upscaler: Latent (bicubic antialiased)",
            (2.0, "latent-bicubic-antialiased", None),
            (),
        ),
        (
            "Hires upscale: 2, Hires steps: 0, Hires upscaler: R-ESRGAN 4x+",
            (2.0, "lanczos", None),
            ("Hires upscaler (R-ESRGAN 4x+ is not here, Lanczos stands in its place)",),
        ),
        ("Hires resize: 1024x1536, Hires upscaler: Latent", (2.0, "latent", None), ()),
        ("Hires resize: 1024x0, Hires upscaler: None", (2.0, "lanczos", None), ()),
        ("Hires resize: 0x1536, Hires upscaler: Nearest", (2.0, "nearest", None), ()),
        ("Hires resize: 1024x1024, Hires upscaler: Latent", (2.0, "latent", None),
         ("Hires resize (cut out of 1024x1536 there, all of it is made)",)),
        ("Hires resize: 256x384, Hires upscaler: Latent", (None, None, None),
         ("Denoising strength", "Hires upscaler",
          "Hires resize (from 512x768 no scale from 1 to 8 leads there)")),
        ('Hires upscale: 2, Hires upscaler: Latent, Hires prompt: "a dog, big", Hires sampler: DDIM',
         (2.0, "latent", None), ("Hires prompt (both passes have one prompt here)",
                                 "Hires sampler (both passes have one sampler here)")),
        ("Hires upscale: 2, Hires prompt: a cat, Hires sampler: Euler, Hires CFG Scale: 7,"
         " Hires Module 1: Use same choices, Hires checkpoint: Use same checkpoint",
         (2.0, "latent", None), ()),
    ],
)  # fmt: skip
def test_what_a1111_says_of_its_second_pass(
    said: str, expected: tuple[float | None, str | None, int | None], left: tuple[str, ...]
) -> None:
    recipe, unknown = recipe_from_parameters(A1111.format(said), "x.png")
    assert (recipe.hires_scale, recipe.hires_method, recipe.hires_steps) == expected
    assert unknown == left
    assert recipe.strength is None
    if expected[0]:
        assert (recipe.hires_strength, recipe.strength_steps) == (0.55, "a1111")


# As the programs write them, whole.
PASTEL = """masterpiece, illustration, grid, portrait
Negative prompt: lowres, ((bad anatomy)), ((bad hands))
Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 31, Size: 448x640, Model hash: 7edc8e08, Model: \
pastelmix-fp32, Denoising strength: 0.6, Clip skip: 2, ENSD: 31337, Hires resize: 960x1280, Hires steps: 20, \
Hires upscaler: Latent"""
FACES = """a woman in a field
Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 5, Size: 512x768, Model hash: \
ca5befc099, Model: m, VAE hash: 735e4c3a44, VAE: vae-ft-mse-840000-ema-pruned.safetensors, Denoising strength: 0.4, \
ADetailer model: face_yolov8n.pt, ADetailer prompt: "<lora:b:0.8> face, blue eyes", ADetailer version: 23.11.1, \
Hires upscale: 1.5, Hires steps: 10, Hires upscaler: 4x-UltraSharp, ControlNet 0: "Module: canny, Model: c [be8b], \
Weight: 1.0", Version: v1.10.1, Hashes: {"vae": "735e4c3a44", "model": "ca5befc099"}"""
EARLY = """a cat
Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 1024x1024, Model hash: 7460a6fa, Denoising strength: 0.7, \
First pass size: {}"""
CPP = """a cat
Negative prompt: dog
Steps: 20, CFG scale: 7.000000, Guidance: 3.500000, Eta: inf, Seed: 42, Size: 512x512, Model: v1-5.safetensors, \
RNG: cuda, Sampler: euler_a discrete, Hires upscale: {}, Hires scale: 1.500000, Hires resize: {}, Hires steps: \
{}, Denoising strength: {}, Version: stable-diffusion.cpp, SDCPP: {{"schema":"sdcpp.image.params/v1","seed":42,\
"prompt":{{"negative":"dog, {{","positive":"a \\"cat\\""}},"hires":{{"enabled":true,"steps":10}}}}"""


@pytest.mark.parametrize(
    ("text", "first", "second", "left"),
    [
        (PASTEL, (448, 640), (960 / 448, "latent", 20, 0.6),
         ("Hires resize (cut out of 960x1371 there, all of it is made)",)),
        (FACES, (512, 768), (1.5, "lanczos", 10, 0.4),
         ("ADetailer (no part of a finished picture is found and painted again here)",
          "ControlNet (a picture chooses no file)",
          "Hires upscaler (4x-UltraSharp is not here, Lanczos stands in its place)")),
        (EARLY.format("512x512"), (512, 512), (2.0, "latent", None, 0.7), ()),
        (EARLY.format("0x0"), (512, 512), (2.0, "latent", None, 0.7), ()),
        (EARLY.format("0x0, Hires upscale: 1.5"), (512, 512), (1.5, "latent", None, 0.7), ()),
        (CPP.format("Latent", "0x0", 0, 0.7), (512, 512), (1.5, "latent", None, 0.7), ()),
        (CPP.format("Latent (bicubic)", "1024x0", 10, 0.7), (512, 512), (2.0, "latent-bicubic", 10, 0.7), ()),
        (CPP.format("Lanczos", "0x0", 10, 0.5), (512, 512), (1.5, "lanczos", 10, 0.5),
         ("Hires steps (11 are taken there, 10 here)",)),
        (CPP.format("4x-UltraSharp", "0x0", 0, 0.7), (512, 512), (1.5, "lanczos", None, 0.7),
         ("Hires upscaler (4x-UltraSharp is not here, Lanczos stands in its place)",)),
        (CPP.format("Latent", "1024x512", 0, 0.7), (512, 512), (None, None, None, None),
         ("Hires steps", "Denoising strength", "Hires upscaler",
          "Hires resize (from 512x512 no scale from 1 to 8 leads there)")),
        (CPP.format("None", "0x0", 0, 0.7), (512, 512), (None, None, None, None), ()),
    ],
)  # fmt: skip
def test_two_passes_as_other_programs_write_them(
    text: str, first: tuple[int, int], second: tuple, left: tuple[str, ...]
) -> None:
    recipe, unknown = recipe_from_parameters(text, "x.png")
    assert (recipe.width, recipe.height) == first
    assert second == (
        recipe.hires_scale, recipe.hires_method, recipe.hires_steps, recipe.hires_strength
    )  # fmt: skip
    assert unknown == left
    assert recipe.strength is None
    assert recipe.seed in (1, 5, 31, 42) and recipe.steps in (20, 25)


@pytest.mark.parametrize(
    ("size", "target"),
    [((512, 768), (1000, 1500)), ((448, 640), (960, 1371)), ((520, 520), (1040, 1040)), ((640, 448), (904, 632))],
)  # fmt: skip
def test_a_scale_leads_to_the_cells_of_a_size(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    scale = scale_to(size, target)
    assert scale is not None
    assert [larger(side, scale, 8) for side in size] == [side // 8 * 8 for side in target]
    assert scale_to(size, (target[0], target[1] * 2)) is None


def test_a_picture_of_a1111_s_that_began_with_another_is_not_made_from_text(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (
        "a cat\nSteps: 4, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 32x32, Denoising strength: 0.5,"
        " Mask blur: 4, Version: v1.10.1"
    )
    recipe, left = recipe_from_parameters(text, "x.png")
    assert (recipe.strength, recipe.strength_steps) == (0.5, "a1111")
    assert left == ("Mask (a picture chooses no mask)",)
    zero = text.replace(
        "0.5", "0"
    )  # which its interface for programs wrote where there was no picture
    assert recipe_from_parameters(zero, "x.png")[0].strength is None
    (tmp_path / "theirs.png").write_bytes(
        encode_png(Image.new("RGB", (32, 32), "red"), {"parameters": text})
    )
    words = ["generate", "--from-image", "theirs.png", "-m", str(tiny_folder), "--device=cpu"]
    assert main([*words, "-o", "a.png"]) == 2
    assert "began with the picture of another file" in capsys.readouterr().err
    assert main([*words, "-o", "a.png", "--init-image", "theirs.png"]) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"hires_scale": 9.0},
        {"hires_scale": 0.5},
        {"hires_scale": 2.0, "hires_strength": 1.5},
        {"hires_scale": 2.0, "hires_method": "esrgan"},
        {"hires_strength": 0.5},
        {"hires_scale": 2.0, "strength": 0.5},
        {"strength_steps": "invoke"},
    ],
)
def test_what_cannot_be_had_is_refused(model: StableDiffusion, settings: dict) -> None:
    with pytest.raises(UsageError):
        next(model.run(Recipe("a cat", steps=1, **settings)))


def test_a_second_pass_that_makes_nothing_anew_is_said(model: StableDiffusion, caplog) -> None:
    settings = {"steps": 1, "width": 32, "height": 32, "seed": 1, "hires_scale": 2.0}
    (made,) = model.run(Recipe("a cat", **settings, hires_strength=0.0))
    assert made.to_pil()[0].size == (64, 64)
    assert "the picture is enlarged, and nothing is made anew" in caplog.text


def test_a_second_pass_is_not_for_pictures(model: StableDiffusion) -> None:
    with pytest.raises(UsageError, match="enlarge the picture alone"):
        recipe = Recipe("a cat", steps=1, hires_scale=2.0)
        next(model.run(recipe, init_image=Image.new("RGB", (32, 32))))


def test_from_the_command_line(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["generate", "a cat", "-m", str(tiny_folder), "--device=cpu", "--seed=3", "--steps=2"]
    words += ["--width=32", "--height=32"]
    assert main([*words, "--hires", "--hires-upscaler=lanczos", "-o", "a.png"]) == 0
    again = ["generate", "--from-image", "a.png", "-m", str(tiny_folder), "--device=cpu"]
    assert main([*again, "-o", "b.png"]) == 0
    first, second = (np.asarray(Image.open(name)) for name in ("a.png", "b.png"))
    assert first.shape == (64, 64, 3)
    assert np.array_equal(first, second)
    assert "Hires upscaler: Lanczos" in Image.open("a.png").info["parameters"]
    assert main([*words, "--hires-strength=0.5", "-o", "c.png"]) == 2


@pytest.mark.parametrize(
    ("schedule", "steps", "taken"),
    [("ddim_uniform+end", 20, 19), ("ddim_uniform", 30, 31), ("linspace+cut+last+unit", 9, 9)],
)
def test_a_ladder_of_other_rungs_is_counted_and_repeated(
    model: StableDiffusion, tmp_path: Path, schedule: str, steps: int, taken: int
) -> None:
    """A1111 counts what changes in a prompt of the steps that were asked for."""
    recipe = Recipe("a [cat:dog:0.5]", seed=1, steps=steps, width=32, height=32, sampler="ddim")
    recipe = recipe.over(schedule=schedule)
    assert count_steps(model, recipe) == taken
    shown: list[int] = []
    with model.record("unet.h") as trace:
        (made,) = model.run(recipe, on_step=lambda step: shown.append(step.index))
    assert len(shown) == taken
    folder = trace.save(tmp_path / "t")
    assert torch.equal(model.replay(folder).latent, made.latents.latent)
    begun = recipe.over(strength=0.5)
    assert count_steps(model, begun) == taken - (steps - steps // 2)
    comfy = begun.over(strength_steps="comfy")
    assert count_steps(model, comfy) == steps
