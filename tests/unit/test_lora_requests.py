"""LoRAs from flags, from tags in a prompt and from a picture's recipe; pictures choose no path."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import sd_scratch
from sd_scratch.checkpoints.adapters.tensor_file import read_tensor_file
from sd_scratch.cli import main
from sd_scratch.dialects.a1111 import recipe_from_parameters
from sd_scratch.dialects.stored_recipe import read_recipe
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.pipeline.adapters import LoraUse, take_tags
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json

SMALL = ["--width=32", "--height=32", "--steps=2", "--seed=7"]


@pytest.mark.parametrize(
    ("prompt", "text", "uses"),
    [
        ("a cat", "a cat", []),
        ("a <b> :1", "a <b> :1", []),
        ("a cat <lora:style>", "a cat", [("style", 1, 1)]),
        ("<lora:style:0.5>a cat", "a cat", [("style", 0.5, 0.5)]),
        ("a <LORA:my style v1.2:0.5:-1> cat", "a  cat", [("my style v1.2", -1, 0.5)]),
        ("a <lora:x:te=0:unet=2>", "a", [("x", 2, 0)]),
        ("a <lora:x:1><lora:y:2>", "a", [("x", 1, 1), ("y", 2, 2)]),
    ],
)
def test_tags(prompt, text, uses):
    assert take_tags(prompt) == (text, tuple(LoraUse(*use) for use in uses))


@pytest.mark.parametrize(
    "tag", ["<lora:>", "<lora:x:a>", "<lora:x:nan>", "<lora:x:1:2:3>", "<lora:x:1e9>"]
)
def test_tags_that_say_something_else(tag):
    with pytest.raises(UsageError, match="<lora:"):
        take_tags(f"a {tag}")


LORAS = (LoraUse("style", 0.8, 0.5, "ddd48cd74131"), LoraUse("my face", -1.0, -1.0))


def test_a_recipe_keeps_its_loras_both_ways():
    recipe = Recipe("a cat", steps=3, syntax="plain", loras=LORAS)
    assert recipe_from_json(recipe.to_json(), "x.png") == recipe
    text = recipe.to_parameters()
    assert "a cat <lora:style:0.5:0.8> <lora:my face:-1:-1>\nSteps" in text
    assert 'Lora hashes: "style: ddd48cd74131"' in text
    again, left = recipe_from_parameters(text, "x.png")
    assert (again.prompt, again.loras, left) == ("a cat", LORAS, ())


@pytest.mark.parametrize(
    "value", [5, ["a"], [["a", 1, 1]], [["a", True, 1, ""]], [["a", 1e9, 1, ""]], [["a"] * 4]]
)
def test_a_stored_lora_is_checked(value):
    import json

    with pytest.raises(ScratchError, match="`loras` must be"):
        recipe_from_json(json.dumps({"prompt": "a", "loras": value}), "x.png")


@pytest.fixture
def run(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    text = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    generator = torch.Generator().manual_seed(1)
    tensors = {
        f"{path}.diff": torch.randn(64, 64, generator=generator),
        f"{text}.diff": torch.randn(64, 32, generator=generator),
    }
    Path("styles/more").mkdir(parents=True)
    save_file(tensors, "styles/more/bold.safetensors")

    def run(*words: str) -> int:
        return main(["generate", *words, "-m", str(tiny_folder), "--device=cpu"])

    return run


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_flag_tag_and_python_make_the_same_picture(run, tiny_folder):
    file = "styles/more/bold.safetensors"
    assert run("a cat", *SMALL, "--lora", f"{file}:0.7:0.2", "-o", "a.png") == 0
    assert run("a cat <lora:bold:0.2:0.7>", *SMALL, "--lora-dir=styles", "-o", "b.png") == 0
    assert run("a cat", *SMALL, "-o", "plain.png") == 0
    assert np.array_equal(pixels("a.png"), pixels("b.png"))
    assert not np.array_equal(pixels("a.png"), pixels("plain.png"))
    model = sd_scratch.load(str(tiny_folder)).with_lora(file, 0.7, 0.2)
    result = model.generate("a cat", model.noise(7, 32, 32), steps=2)
    assert np.array_equal(pixels("a.png"), np.asarray(result.to_pil()[0]))
    recipe, _ = read_recipe(Path("a.png"))
    assert recipe.loras == (LoraUse("bold", 0.7, 0.2, read_tensor_file(Path(file)).hash),)
    assert recipe.prompt == "a cat" and "styles" not in recipe.to_json()


def test_a_picture_is_repeated_where_its_lora_is_named(run, capsys):
    assert run("a cat <lora:bold:0.7>", *SMALL, "--lora-dir=styles", "-o", "a.png") == 0
    assert run("--from-image=a.png", "-o", "b.png") == 2
    assert "no lora called 'bold' was found - give --lora FILE" in capsys.readouterr().err
    assert run("--from-image=a.png", "--lora-dir=styles", "-o", "c.png") == 0
    assert np.array_equal(pixels("a.png"), pixels("c.png"))
    assert run("--from-image=a.png", "--lora=none", "-o", "d.png") == 0
    assert not np.array_equal(pixels("a.png"), pixels("d.png"))


def test_a_lora_by_the_names_that_other_tools_give_it(run, capsys):
    """With its folder, with its ending, and as kohya's training called it before it was renamed."""
    tensors = read_tensor_file(Path("styles/more/bold.safetensors")).tensors
    save_file(tensors, "styles/more/bold.safetensors", {"ss_output_name": "trained"})
    assert run("a cat", *SMALL, "--lora=styles/more/bold.safetensors:0.7", "-o", "a.png") == 0
    for i, name in enumerate(("more/bold", "bold.safetensors", "trained")):
        made = f"{i}.png"
        assert run(f"a cat <lora:{name}:0.7>", *SMALL, "--lora-dir=styles", "-o", made) == 0
        assert np.array_equal(pixels("a.png"), pixels(made))
        assert read_recipe(Path(made))[0].loras == read_recipe(Path("a.png"))[0].loras
    assert run("a <lora:bald:1>", *SMALL, "--lora-dir=styles") == 2
    assert "'bald' was found, did you mean bold? - give" in capsys.readouterr().err
    Path("styles/other").mkdir()
    save_file(tensors, "styles/other/bold.safetensors")
    assert run("a <lora:bold:1>", *SMALL, "--lora-dir=styles") == 2
    assert "2 files are called bold: styles/more/bold" in capsys.readouterr().err
    assert run("a <lora:other/bold:1>", *SMALL, "--lora-dir=styles", "-o", "b.png") == 0


def test_another_file_of_that_name_is_said(run, capsys):
    assert run("a <lora:bold:0.7>", *SMALL, "--lora-dir=styles", "-o", "a.png") == 0
    tensors = read_tensor_file(Path("styles/more/bold.safetensors")).tensors
    save_file({key: 2 * value for key, value in tensors.items()}, "styles/more/bold.safetensors")
    assert run("--from-image=a.png", "--lora-dir=styles", "-o", "b.png") == 0
    assert "it will differ" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("a <lora:../more/bold:1>", "--lora-dir=styles"),
            "no lora called '../more/bold' was found",
        ),
        (("a <lora:/etc/passwd:1>", "--lora-dir=styles"), "no lora called"),
        (("a <lora:bold:1>",), "or --lora-dir with the folder"),
        (("a", "--lora=nowhere.safetensors"), "there is no such file"),
        (("a", "--lora=styles/more/bold.safetensors:1e9"), "a scale is a number"),
        (("a <lora:bold:1>", "--lora-dir=nowhere"), "there is no such folder"),
    ],
)
def test_what_cannot_be_found_is_said_before_loading(run, capsys, words, message):
    assert run(*words, *SMALL, "-o", "a.png") == 2
    assert message in capsys.readouterr().err
    assert not Path("a.png").exists()


def test_a_file_that_does_not_fit_ends_the_run_in_one_line(run, capsys):
    save_file({"model.embed.weight": torch.zeros(2, 2)}, "bad.safetensors")
    assert run("a", *SMALL, "--lora=bad.safetensors", "-o", "a.png") == 1
    assert "bad.safetensors - no LoRA that is known here" in capsys.readouterr().err


def test_recipes_of_hostile_pictures_name_the_picture():
    text = replace(Recipe("a", steps=1)).to_parameters().replace("a\n", "a <lora:x:inf>\n", 1)
    with pytest.raises(ScratchError, match=r"x\.png - <lora:x:inf>"):
        recipe_from_parameters(text, "x.png")
