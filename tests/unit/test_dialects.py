"""Other tools' names and conventions, and what separates two pictures."""

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sd_scratch.cli import main
from sd_scratch.diffusion.sampler_names import find_sampler
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.errors import UsageError
from sd_scratch.pipeline.dialects import DIALECTS, speak
from sd_scratch.pipeline.differences import MEANING, differences
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.stored_recipe import encode_picture


@pytest.mark.parametrize(
    ("written", "name", "schedule"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),  # A1111 before 1.9
        ("DPM++ 2M", "dpmpp_2m", None),
        ("dpm++2m", "dpmpp_2m", None),  # stable-diffusion.cpp
        ("sample_dpmpp_2m", "dpmpp_2m", None),  # k-diffusion
        ("DPMSolverMultistepScheduler", "dpmpp_2m", None),  # diffusers
        ("Euler a", "euler_a", None),
        ("euler_ancestral", "euler_a", None),  # ComfyUI
        ("k_euler_ancestral", "euler_a", None),  # InvokeAI
        ("EulerAncestralDiscreteScheduler", "euler_a", None),
        ("Euler", "euler", None),
        ("k_euler", "euler", None),
        ("EulerDiscreteScheduler", "euler", None),
        ("LMS Karras", "lms", "karras"),
        ("k_lms", "lms", None),
        ("Heun", "heun", None),
        ("DDIM", "ddim", None),
        ("DDIMScheduler", "ddim", None),
        ("PLMS", "pndm", None),
        ("PNDMScheduler", "pndm", None),
        ("Karras", "Karras", None),
        ("nothing of the kind", "nothing of the kind", None),
    ],
)
def test_samplers_by_the_names_of_other_tools(
    written: str, name: str, schedule: str | None
) -> None:
    assert find_sampler(written) == (name, schedule)


def test_every_sampler_is_found_by_its_own_names() -> None:
    for name, sampler in SAMPLERS.items():
        assert find_sampler(name)[0] == find_sampler(sampler.metadata_name)[0] == name


def test_a_dialect_sets_conventions_and_nothing_else() -> None:
    recipe = Recipe("a", seed=1, rng="cpu", syntax="plain")
    spoken = speak(recipe, "a1111")
    assert {each.name for each in differences(recipe, spoken)} <= {
        "rng",
        "syntax",
        "emphasis",
        "text_cleaning",
    }
    assert (spoken.rng, spoken.syntax) == ("nv", "a1111")
    assert len({tuple(d.settings.values()) for d in DIALECTS.values()}) == len(DIALECTS)
    with pytest.raises(UsageError, match="unknown dialect 'x' - use a1111, comfy, diffusers"):
        speak(recipe, "x")


def test_what_differs_comes_in_the_order_of_what_it_changes() -> None:
    first = Recipe("a (b:1.2)", seed=1, rng="nv", emphasis="a1111", steps=20)
    second = Recipe("a (b:1.2)", seed=1, rng="cpu", emphasis="comfy", steps=30)
    found = differences(first, second)
    assert [(each.name, each.is_convention) for each in found] == [
        ("rng", True),
        ("emphasis", True),
        ("steps", False),
    ]
    assert differences(first, first) == []
    assert differences(Recipe("a", emphasis="comfy"), Recipe("a", emphasis="none")) == []
    assert set(MEANING) - {"schedule"} <= set(vars(Recipe("a")))


def test_explain_says_what_separates_two_pictures(tmp_path: Path, capsys) -> None:
    info = PngInfo()
    info.add_text(
        "parameters",
        "a (b:1.2)\nSteps: 20, Sampler: Euler a, Seed: 3, Tiling: True, Version: v1.10.1",
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "theirs.png", pnginfo=info)
    ours = Recipe(
        "a (b:1.2)",
        seed=3,
        steps=20,
        sampler="euler_a",
        syntax="a1111",
        emphasis="a1111",
        rng="cpu",
    )
    (tmp_path / "ours.png").write_bytes(encode_picture(Image.new("RGB", (8, 8)), ours))
    words = ["explain", str(tmp_path / "theirs.png"), str(tmp_path / "ours.png")]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("rng (convention): nv / cpu - where the noise comes from")
    assert lines[1:] == [f"{words[1]}: not understood, and may matter: Tiling"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"][0]["name"] == "rng"
    assert main(["explain", words[2], words[2]]) == 0
    assert "nothing separates" in capsys.readouterr().out
