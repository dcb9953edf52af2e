"""LoRAs that bring their sampler: told by name or metadata, said in a line, and overridden by whatever is said."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import sd_scratch
from sd_scratch.checkpoints.adapters.few_steps import few_steps
from sd_scratch.cli import main
from sd_scratch.dialects.stored_recipe import read_recipe

PATH = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    ("name", "metadata", "said"),
    [
        ("lcm-lora-sdv1-5", {}, "an LCM LoRA: 4 steps of lcm (lcm), guidance 1"),
        ("pytorch_lora_weights", {"ss_output_name": "LCM_sd15"}, "an LCM LoRA: 4 steps of lcm"),
        ("x", {"modelspec.title": "TCD-SD15-LoRA"}, "a TCD LoRA: 4 steps of tcd (lcm), guidance 1"),
        ("Hyper-SD15-8steps-lora", {}, "of 8 steps: 8 steps of ddim (trailing), guidance 1"),
        ("Hyper-SD15-12steps-CFG-lora", {}, "12 steps of ddim (trailing), guidance 5"),
        ("Hyper-SD15-1step-lora", None, "of 1 step: 1 step of tcd (lcm), guidance 1"),
        ("hyper_sd15_lora", {}, None),  # for how many steps?
        ("hyperrealism", {}, None),
        ("welcome", {"ss_output_name": "calcm"}, None),
        ("style", {"ss_output_name": None}, None),
    ],
)
def test_what_a_file_was_distilled_for(name, metadata, said):
    found = few_steps(name, metadata)
    assert (found is None) if said is None else (said in str(found))


@pytest.fixture
def run(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tensors = {f"{PATH}.diff": torch.randn(64, 64, generator=torch.Generator().manual_seed(1))}
    Path("styles").mkdir()
    save_file(tensors, "styles/ink.safetensors")
    save_file(tensors, "styles/fast.safetensors", {"ss_output_name": "tcd"})

    def run(*words: str) -> int:
        more = ["-W=32", "-H=32", "--seed=7", "-m", str(tiny_folder), "--device=cpu"]
        return main(["generate", *words, *more])

    return run


def test_the_command_takes_what_it_brings(run, tiny_folder, capsys):
    assert run("a cat", "--lora=styles/fast.safetensors", "-o", "a.png") == 0
    assert "fast is a TCD LoRA: 4 steps of tcd (lcm), guidance 1" in capsys.readouterr().err
    recipe = read_recipe(Path("a.png"))[0]
    assert (recipe.sampler, recipe.steps, recipe.schedule) == ("tcd", 4, "lcm")
    assert (recipe.guidance, recipe.sampler_options) == (1.0, {"eta": 0.3})
    model = sd_scratch.load(str(tiny_folder)).with_lora("styles/fast.safetensors")
    picture = model.generate("a cat", model.noise(7, 32, 32)).to_pil()[0]
    assert picture.tobytes() == next(iter(model.run(recipe))).to_pil()[0].tobytes()
    assert model.with_adapters().config.sampler == "pndm"


def test_flags_come_first(run):
    flags = ("--sampler=euler", "--steps=2", "--cfg-scale=3")
    assert run("a cat", "--lora=styles/fast.safetensors", *flags, "-o", "a.png") == 0
    recipe = read_recipe(Path("a.png"))[0]
    assert (recipe.sampler, recipe.steps, recipe.guidance) == ("euler", 2, 3.0)
    assert run("a cat", "--lora=styles/fast.safetensors:0", "--steps=2", "-o", "b.png") == 0
    assert read_recipe(Path("b.png"))[0].sampler == "pndm"


def test_tags_in_a_prompt_file_are_for_their_line(run, capsys):
    Path("lines.txt").write_text("a cat\na cat <lora:ink:0.5>\na cat <lora:fast:1>\n")
    where = ("--lora-dir=styles", "--steps=2")
    assert run("--prompt-file=lines.txt", *where, "-o", "{index}.png") == 0
    recipes = [read_recipe(Path(f"{i}.png"))[0] for i in range(3)]
    assert [r.prompt for r in recipes] == ["a cat"] * 3
    assert recipes[0].loras is None
    assert recipes[1].loras[0][:3] == ("ink", 0.5, 0.5) and recipes[1].loras[0].hash
    assert "fast is a TCD LoRA" in capsys.readouterr().err
    assert run("a cat <lora:ink:0.5>", *where, "-o", "one.png") == 0
    assert Path("one.png").read_bytes() == Path("1.png").read_bytes()
    assert Path("0.png").read_bytes() != Path("1.png").read_bytes()
    Path("lines.txt").write_text("a cat <lora:nothing>\n")
    assert run("--prompt-file=lines.txt", *where) == 2
    assert "no lora called 'nothing'" in capsys.readouterr().err


def test_experiments_take_loras(run, tiny_folder, tmp_path, capsys):
    quick = ["--steps=2", "-W=32", "-H=32", "-m", str(tiny_folder), "--device=cpu"]
    words = ["map", "film", "a cat", *quick]
    assert main([*words, "-o", "plain"]) == 0
    assert main([*words, "-o", "ink", "--lora", "styles/ink.safetensors:0.5"]) == 0
    settings = Path("ink/settings.json").read_text()
    assert '"ink"' in settings and "styles" not in settings
    assert Path("ink/film.gif").read_bytes() != Path("plain/film.gif").read_bytes()
    assert main(["map", "film", "a <lora:ink:1> cat", *quick]) == 2
    assert "give the file here with --lora" in capsys.readouterr().err
