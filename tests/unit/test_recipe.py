import json
import math
from dataclasses import replace

import pytest

from sd_scratch.dialects.a1111 import recipe_from_parameters
from sd_scratch.diffusion.noise import Drawing
from sd_scratch.errors import ScratchError
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json
from sd_scratch.pipeline.settings import SETTINGS

WHOLE = Recipe(
    prompt="a red circle, by hand\nand 漢字 🎨",
    negative_prompt="blur: no, thanks",
    seed=2**64 - 1,
    steps=20,
    sampler="euler_a",
    sampler_options={"eta": 0.5},
    schedule="karras+all",
    guidance=7.0,
    width=512,
    height=640,
    clip_skip=2,
    text_cleaning="transformers",
    model="owner/name",
    revision="0123abcd",
    model_hash="6ce0161689",
    dtype="bfloat16",
    syntax="comfy",
    emphasis="none",
    rng="nv",
    ensd=31337,
    subseed=3,
    subseed_strength=0.5,
)

A1111 = """a photograph of an astronaut, masterpiece
second line
Negative prompt: ugly, (blurry:1.2)
Steps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7, Seed: 965400086, Size: 512x768, \
Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Clip skip: 2, \
Lora hashes: "one: 1234, two: 5678", RNG: CPU, Version: v1.10.1"""


def settings(line: str) -> Recipe:
    return recipe_from_parameters(f"x\nSteps: 1, {line}", "x.png")[0]


def test_json_keeps_everything() -> None:
    assert recipe_from_json(WHOLE.to_json(), "x.png") == WHOLE


def test_json_leaves_the_rest_to_the_model() -> None:
    recipe = Recipe(prompt="a")
    assert json.loads(recipe.to_json()).keys() == {
        "version",
        "prompt",
        "negative_prompt",
        "sampler_options",
    }
    assert recipe_from_json(recipe.to_json(), "x.png") == replace(recipe, syntax="plain")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prompt", 5),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", True),
        ("seed", 1.5),
        ("steps", 0),
        ("steps", "20"),
        ("guidance", "nan"),
        ("width", 10**6),
        ("sampler", ["ddim"]),
        ("sampler_options", {"eta": None}),
        ("sampler_options", {"eta": math.nan}),
        ("sampler_options", [1]),
        ("loras", [["style", 1, 1, "none"]]),
        ("mask", ["", "", True, "", "", True, [0, 0, 0, 0], None]),
        ("text_cleaning", "none"),
        ("dtype", "load"),
        ("model", {}),
    ],
)
def test_json_of_the_wrong_type_or_range_is_refused(key: str, value: object) -> None:
    with pytest.raises(ScratchError, match=f"x.png - `{key}`"):
        recipe_from_json(json.dumps({"prompt": "a", key: value}), "x.png")


@pytest.mark.parametrize("key", SETTINGS)
def test_null_is_no_value(key: str) -> None:
    with pytest.raises(ScratchError, match=f"x.png - `{key}` must be .*, found null"):
        recipe_from_json(json.dumps({"prompt": "a", key: None}), "x.png")


def test_a_recipe_has_a_prompt() -> None:
    with pytest.raises(ScratchError, match="x.png - `prompt` must be a text, found nothing"):
        recipe_from_json('{"version": "0.1", "seed": 1}', "x.png")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"seed": NaN}', '{"seed": 1e999}', '{"a": 1, "a": 2}', "[" * 100_000],
)
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ScratchError, match=r"^x\.png"):
        recipe_from_json(text, "x.png")


def test_parameters_are_written_as_a1111_writes_them() -> None:
    recipe = Recipe(
        prompt="a cat",
        negative_prompt="dog",
        seed=965400086,
        steps=20,
        sampler="euler_a",
        schedule="karras+all",
        guidance=7.0,
        width=512,
        height=512,
        clip_skip=1,
        model="v1-5: pruned, emaonly",
        model_hash="6ce0161689",
    )
    assert recipe.to_parameters() == (
        "a cat\n"
        "Negative prompt: dog\n"
        "Steps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7, Seed: 965400086, "
        "Size: 512x512, Model hash: 6ce0161689, Model: v1-5_ pruned_ emaonly, RNG: CPU, "
        "Version: sd_scratch 0.1.0"
    )
    without = replace(recipe, negative_prompt="", clip_skip=2).to_parameters()
    assert without.startswith("a cat\nSteps: 20, ")
    assert ", Clip skip: 2, " in without


def test_parameters_come_back() -> None:
    recipe, left = recipe_from_parameters(WHOLE.to_parameters(), "x.png")
    lost = {"text_cleaning": None, "revision": None, "dtype": None, "syntax": "a1111"}
    assert recipe == replace(WHOLE, **lost)
    assert left == ()


def test_a_picture_of_a1111_is_understood() -> None:
    recipe, left = recipe_from_parameters(A1111, "x.png")
    assert recipe == Recipe(
        prompt="a photograph of an astronaut, masterpiece\nsecond line",
        negative_prompt="ugly, (blurry:1.2)",
        seed=965400086,
        steps=20,
        sampler="euler_a",
        schedule="karras+all",
        guidance=7.0,
        width=512,
        height=768,
        clip_skip=2,
        model="v1-5-pruned-emaonly",
        model_hash="6ce0161689",
        syntax="a1111",
        emphasis="a1111",
        rng="cpu",
    )
    assert left == ("Lora hashes",)


def test_noise_from_a_graphics_card_is_told() -> None:
    assert recipe_from_parameters(A1111, "x.png")[0].rng == "cpu"
    for said in ("", "RNG: NV, ", "RNG: cuda, "):
        recipe, left = recipe_from_parameters(A1111.replace("RNG: CPU, ", said), "x.png")
        assert (recipe.rng, left) == ("nv", ("Lora hashes",))
    assert "RNG" in recipe_from_parameters(A1111.replace("RNG: CPU", "RNG: std"), "x.png")[1]


def test_pictures_of_stable_diffusion_cpp() -> None:
    line = (
        "Steps: 20, CFG scale: 7.000000, Guidance: 3.500000, Eta: {}, Seed: 42, Size: 512x512, Model: "
        "v1-5.ckpt, RNG: cuda, Sampler: {}, Version: stable-diffusion.cpp master"
    )
    for eta, sampler, ours, options, schedule in (
        ("inf", "euler_a", "euler_a", {}, "linspace"),
        ("0.000000", "euler_a karras", "euler_a", {}, "karras+all"),
        ("0.000000", "dpm++2m discrete", "dpmpp_2m", {}, "linspace"),
        ("inf", "dpm++2m", "dpmpp_2m", {}, "linspace"),
        ("inf", "ddim", "ddim", {}, None),
        ("0.500000", "ddim", "ddim", {"eta": 0.5}, None),
    ):
        recipe, left = recipe_from_parameters("a cat\n" + line.format(eta, sampler), "x.png")
        assert left == ()
        assert (recipe.sampler, recipe.sampler_options, recipe.schedule) == (
            ours,
            options,
            schedule,
        )
        assert (recipe.rng, recipe.seed, recipe.guidance) == ("nv", 42, 7.0)


def test_variations_and_the_noise_of_later_steps() -> None:
    line = "ENSD: 31337, Variation seed: 5, Variation seed strength: 0.25, RNG: NV"
    recipe = settings(line)
    assert recipe.drawing() == Drawing("nv", 31337, 5, 0.25)
    assert recipe.drawing(3).subseed == 8
    assert line.split(", RNG")[0] in recipe.to_parameters()
    assert recipe_from_json(recipe.to_json(), "x.png") == recipe


@pytest.mark.parametrize(
    ("written", "sampler", "options", "schedule"),
    [
        ("PLMS", "pndm", {}, "ddim_uniform"),
        ("DPM++ 2M", "dpmpp_2m", {}, "karras+all"),
        ("DPM++ 2M Karras", "dpmpp_2m", {}, "karras+all"),
        ("LMS Karras", "lms", {}, "karras+all"),
        ("LMS, Schedule type: Automatic", "lms", {}, "linspace"),
        ("DPM++ 2M, Schedule type: Uniform", "dpmpp_2m", {}, "linspace"),
        ("DDIM, Eta DDIM: 0.5", "ddim", {"eta": 0.5}, "ddim_uniform"),
        ("Euler a, Eta: 0.5", "euler_a", {"eta": 0.5}, "linspace"),
        ("Restart", "Restart", {}, None),
    ],
)
def test_sampler_names_of_a1111(
    written: str, sampler: str, options: dict[str, object], schedule: str | None
) -> None:
    recipe = settings(f"Sampler: {written}")
    assert (recipe.sampler, recipe.sampler_options, recipe.schedule) == (sampler, options, schedule)


@pytest.mark.parametrize(
    "line",
    [
        "Seed: -1",
        "Seed: 99999999999999999999999",
        "Seed: ١٢",
        "Seed: 1_000",
        f"Seed: {'9' * 10_000}",
        "Size: 512",
        "Size: 512x",
        "Size: 0x512",
        "Size: axb",
        "CFG scale: nan",
        "CFG scale: 1e999",
        "Clip skip: 99",
    ],
)
def test_settings_out_of_range_are_refused(line: str) -> None:
    with pytest.raises(ScratchError, match=r"x\.png - '(Seed|Size|CFG scale|Clip skip)' must be"):
        settings(line)


@pytest.mark.parametrize("text", ["", "a prompt alone", "Negative prompt: x", "a\nSampler: DDIM"])
def test_text_without_settings_is_refused(text: str) -> None:
    with pytest.raises(ScratchError, match="no line of settings"):
        recipe_from_parameters(text, "x.png")


@pytest.mark.parametrize(
    "line", ['a: "', ",,,,:::", "Steps: 5", '"' * 1000, "x" * 60_000, "a:b," * 10_000, "\\\\\\"]
)
def test_hostile_settings_do_no_harm(line: str) -> None:
    assert settings(line).steps == 1


def test_how_the_prompt_is_read() -> None:
    assert (
        recipe_from_json('{"prompt": "a (b)"}', "x.png").syntax == "plain"
    )  # of before the choice
    assert (settings("Seed: 1").syntax, settings("Seed: 1").emphasis) == ("a1111", "a1111")
    assert settings("Emphasis: No norm").emphasis == "none"
    assert settings("Emphasis: None").syntax == "plain"
    assert recipe_from_parameters("x\nSteps: 1, Emphasis: Ignore, RNG: CPU", "x.png")[1] == (
        "Emphasis",
    )
    for syntax, emphasis in (("plain", "a1111"), ("a1111", "none"), ("a1111", "a1111")):
        text = Recipe("x", steps=1, syntax=syntax, emphasis=emphasis).to_parameters()
        read = recipe_from_parameters(text, "x.png")[0]
        assert (read.syntax, read.emphasis) == (syntax, emphasis)


def test_older_recipes_have_the_schedule_among_the_sampler_s_options() -> None:
    old = (
        '{"prompt": "a cat", "sampler": "lms", "sampler_options": {"sigmas": "karras", "order": 3}}'
    )
    recipe = recipe_from_json(old, "x.png")
    assert (recipe.schedule, recipe.sampler_options) == ("karras", {"order": 3})
    with pytest.raises(ScratchError, match="sigmas"):
        recipe_from_json(old.replace("karras", "karas"), "x.png")
    with pytest.raises(ScratchError, match="schedule"):
        recipe_from_json('{"prompt": "a cat", "schedule": 3}', "x.png")
