"""``sd-scratch generate`` from the command line to the file, on a tiny model."""

import io
import json
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file

import sd_scratch
from sd_scratch.cli import main
from sd_scratch.cli.making import Latents, is_plain
from sd_scratch.config import TINY
from sd_scratch.dialects.stored_recipe import encode_picture, read_recipe
from sd_scratch.pipeline.estimate import run_bytes
from sd_scratch.pipeline.recipe import Recipe

SMALL = ["--width=32", "--height=32", "--steps=2", "--seed=7"]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def generate(tiny_folder: Path):
    """Run the command with the tiny model; returns its exit code."""

    def run(*words: str) -> int:
        return main(["generate", *words, "-m", str(tiny_folder), "--device=cpu"])

    return run


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_a_picture_is_written_and_its_path_printed(generate, capsys) -> None:
    assert generate("a red circle", *SMALL) == 0
    streams = capsys.readouterr()
    assert streams.out == "out/7-0000.png\n"
    assert "tiny: " in streams.err  # what was loaded
    assert pixels("out/7-0000.png").shape == (32, 32, 3)


def test_it_is_the_picture_that_python_makes(generate, tiny_folder) -> None:
    assert generate("a red circle", "-n", "blue", *SMALL, "--cfg-scale=3", "-o", "a.png") == 0
    model = sd_scratch.load(str(tiny_folder))
    prompt, noise = model.prompt("a red circle"), model.noise(7, 32, 32)
    result = model.generate(prompt, noise, negative="blue", steps=2, guidance=3.0)
    assert np.array_equal(pixels("a.png"), np.asarray(result.to_pil()[0]))


def test_the_picture_holds_its_recipe_and_no_path(generate, tiny_folder) -> None:
    words = ("--sampler=ddim", "--eta=0.5", "--clip-skip=2", "--text_cleaning=transformers")
    assert generate("a", *SMALL, *words, "-o", "a.png") == 0
    recipe, left = read_recipe(Path("a.png"))
    assert left == ()
    assert recipe == Recipe(
        prompt="a",
        seed=7,
        steps=2,
        sampler="ddim",
        sampler_options={"eta": 0.5},
        guidance=7.5,
        width=32,
        height=32,
        clip_skip=2,
        text_cleaning="transformers",
        syntax="a1111",
        emphasis="a1111",
        rng="cpu",
        model="tiny",
        model_hash=recipe.model_hash,
        dtype="float32",
    )
    assert len(recipe.model_hash) == 10
    assert str(tiny_folder.parent).encode() not in Path("a.png").read_bytes()


def test_no_metadata(generate) -> None:
    assert generate("a", *SMALL, "--no-metadata", "-o", "a.png") == 0
    with Image.open("a.png") as picture:
        picture.load()
        assert picture.info == {}


@pytest.mark.parametrize(
    "words",
    [
        ["--sampler=ddim", "--eta=1"],
        ["--sampler=euler_a", "--schedule=karras"],
        ["--sampler=lms", "--sampler-option", "order=2"],
        ["--sampler=pndm", "--sampler-option=prk=true"],
        ["--sampler=ddpm", "--sampler-option", "variance=fixed_large", "--cfg-scale=1"],
        ["--dtype=bfloat16", "--clip-skip=2", "-n", "b"],
    ],
)
def test_from_image_makes_the_same_pixels(generate, words: list[str]) -> None:
    assert generate("a red circle", *SMALL, *words, "-o", "a.png") == 0
    assert generate("--from-image", "a.png", "-o", "b.png") == 0
    assert np.array_equal(pixels("a.png"), pixels("b.png"))
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_flags_win_over_the_image(generate) -> None:
    assert generate("a", *SMALL, "--sampler=ddim", "--eta=1", "-o", "a.png") == 0
    assert (
        generate("--from-image", "a.png", "-p", "b", "--sampler=pndm", "--steps=3", "-o", "b.png")
        == 0
    )
    recipe, _ = read_recipe(Path("b.png"))
    assert (recipe.prompt, recipe.sampler, recipe.steps, recipe.seed) == ("b", "pndm", 3, 7)
    assert recipe.sampler_options == {}


def test_from_image_of_a1111(generate, capsys) -> None:
    info = "a\nSteps: 2, Sampler: DDIM, CFG scale: 3, Seed: 9, Size: 32x32, Face restoration: GFPGAN, RNG: CPU"
    picture = Image.new("RGB", (8, 8))
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_text("parameters", info)
    picture.save("theirs.png", pnginfo=chunks)
    assert generate("--from-image", "theirs.png", "-o", "ours.png") == 0
    assert "not repeated: Face restoration" in capsys.readouterr().err
    recipe, _ = read_recipe(Path("ours.png"))
    assert (recipe.sampler, recipe.guidance, recipe.seed, recipe.steps) == ("ddim", 3.0, 9, 2)


@pytest.mark.parametrize(
    ("words", "schedule"),
    [
        (["--sampler=DPM++ 2M Karras"], "karras"),
        (["--sampler=DPM++ 2M Karras", "--like=a1111"], "karras+all"),
        (["--sampler=euler", "--schedule=karras", "--like=comfy"], "karras+all+whole+unit"),
        (["--sampler=euler", "--schedule=karras+cut", "--like=a1111"], "karras+cut"),
        (["--sampler=euler", "--schedule=SGM Uniform"], "sgm_uniform"),
        (["--sampler=euler", "--schedule=normal"], "linspace"),
        (["--sampler=dpm2", "--like=comfy"], "linspace+cut+whole+unit"),
        (["--sampler=ddim", "--schedule=beta", "--like=comfy"], "beta_timesteps+unit"),
        (["--sampler=UniPC", "--like=a1111"], "linspace+cut+last+unit"),
    ],
)
def test_schedules_by_the_names_of_other_tools(generate, words: list[str], schedule: str) -> None:
    assert generate("a", *SMALL, *words, "-o", "a.png") == 0
    assert read_recipe(Path("a.png"))[0].schedule == schedule


def test_samplers_are_those_of_the_tool(generate) -> None:
    for words, name, options in (
        (["--sampler=ddim", "--like=comfy"], "euler", {}),
        (["--sampler=uni_pc_bh2", "--like=comfy"], "unipc", {"order": 3, "variant": "bh2"}),
        (["--sampler=UniPC", "--like=a1111"], "unipc", {"order": 3, "variant": "bh1"}),
        (["--sampler=UniPC", "--like=a1111", "--sampler-option=order=2"], "unipc", {"order": 2, "variant": "bh1"}),
    ):  # fmt: skip
        assert generate("a", *SMALL, *words, "-o", "a.png", "--overwrite") == 0
        recipe = read_recipe(Path("a.png"))[0]
        assert (recipe.sampler, recipe.sampler_options) == (name, options)


def test_a_solver_in_a_sampler_s_name(generate) -> None:
    assert generate("a", *SMALL, "--sampler=DPM++ 2M SDE Heun", "-o", "a.png") == 0
    recipe = read_recipe(Path("a.png"))[0]
    assert (recipe.sampler, recipe.sampler_options["solver"]) == ("dpmpp_2m_sde", "heun")


def test_a_picture_by_a_sampler_that_is_not_here(generate, capsys) -> None:
    info = PngInfo()
    info.add_text("parameters", "a\nSteps: 2, Sampler: Restart, Seed: 1, Size: 32x32")
    Image.new("RGB", (8, 8)).save("t.png", pnginfo=info)
    assert generate("--from-image", "t.png") == 2
    assert "t.png was made by the sampler Restart, which is not here" in capsys.readouterr().err
    assert generate("--from-image", "t.png", "--sampler=euler", "-o", "u.png") == 0


def test_two_schedules_at_once_are_refused(generate, capsys) -> None:
    assert generate("a", *SMALL, "--sampler=DPM++ 2M Karras", "--schedule=beta") == 2
    assert "says karras and --schedule beta - leave out one" in capsys.readouterr().err
    assert (
        generate("a", *SMALL, "--sampler=DPM++ 2M Karras", "--schedule=KARRAS", "-o", "b.png") == 0
    )


def test_an_image_that_says_too_little_is_told(generate, capsys) -> None:
    info = PngInfo()
    info.add_text("parameters", "a\nSteps: 2, CFG scale: 3, Size: 32x32")
    Image.new("RGB", (8, 8)).save("t.png", pnginfo=info)
    assert generate("--from-image", "t.png", "--sampler=ddim", "-o", "u.png") == 0
    assert "t.png does not say its seed: it will differ" in capsys.readouterr().err


def test_an_image_of_other_weights_is_told(generate, capsys) -> None:
    recipe = Recipe(prompt="a", seed=1, steps=1, width=32, height=32, model_hash="0123456789")
    Path("a.png").write_bytes(encode_picture(Image.new("RGB", (8, 8)), recipe))
    assert generate("--from-image", "a.png", "-o", "b.png") == 0
    assert "hash 0123456789, and tiny has" in capsys.readouterr().err


def test_picture_i_has_seed_plus_i_in_any_batch(generate, capsys) -> None:
    assert generate("a", *SMALL, "-b", "3", "--batch-size=2", "-o", "{seed}.png") == 0
    assert capsys.readouterr().out.split() == ["7.png", "8.png", "9.png"]
    assert generate("a", *SMALL[:3], "-s", "9", "-o", "single.png") == 0
    assert np.array_equal(pixels("9.png"), pixels("single.png"))  # it was alone in its batch, too
    assert generate("a", *SMALL[:3], "-s", "8", "-o", "second.png") == 0
    difference = pixels("8.png").astype(int) - pixels("second.png")
    assert np.abs(difference).max() <= 1
    assert [read_recipe(Path(f"{seed}.png"))[0].seed for seed in (7, 8, 9)] == [7, 8, 9]


# Room is in pictures' activations.
@pytest.mark.parametrize("room, expected", [(0, 1), (2.6, 2), (1000, 3)])
def test_a_batch_may_be_as_large_as_memory(generate, monkeypatch, room, expected) -> None:
    one = run_bytes(TINY, 32, 32, 1, torch.float32)
    sizes = []
    monkeypatch.setattr("sd_scratch.cli.load.weight_bytes", lambda *_: 10**6)
    monkeypatch.setattr("sd_scratch.cli.load.available_memory", lambda _: 10**6 + room * one / 0.8)
    monkeypatch.setattr(
        "sd_scratch.cli.load.check_size", lambda *given: sizes.append(given[2]) or False
    )
    assert generate("a", *SMALL, "-b", "3", "--batch-size", "auto", "-o", "{seed}.png") == 0
    assert sizes == [expected]
    assert {path.name for path in Path().glob("*.png")} == {"7.png", "8.png", "9.png"}


def test_json_is_all_that_is_printed(generate, capsys) -> None:
    assert generate("a", *SMALL, "-b", "2", "--json", "-o", "{seed}.png") == 0
    report = json.loads(capsys.readouterr().out)
    assert [image["path"] for image in report["images"]] == ["7.png", "8.png"]
    assert [image["seed"] for image in report["images"]] == [7, 8]
    assert report["images"][0]["sampler"] == "pndm"
    assert report["seconds"] > 0


def test_standard_output_holds_the_picture_alone(generate, capfdbinary) -> None:
    assert generate("a", *SMALL, "-o", "-") == 0
    picture = Image.open(io.BytesIO(capfdbinary.readouterr().out), formats=("PNG",))
    assert picture.size == (32, 32)


def test_latents_are_saved(generate, tiny_folder) -> None:
    assert (
        generate("a", *SMALL, "-b", "3", "--batch-size=2", "--save-latents=new/l.safetensors") == 0
    )
    saved = load_file("new/l.safetensors")
    latents = saved["latents"]
    assert saved.keys() == {"latents"}
    assert (latents.shape, latents.dtype) == ((3, 4, 8, 8), torch.float32)
    model = sd_scratch.load(str(tiny_folder))
    expected = model.generate("a", model.noise(9, 32, 32), steps=2).latent
    assert torch.equal(latents[2:], expected)


def test_latents_wait_on_the_disk_and_not_in_memory(tmp_path) -> None:
    path = tmp_path / "l.safetensors"
    latents, expected, kept = Latents(str(path), overwrite=False), [], []
    for i in range(5):
        latent = torch.full((2, 4, 3, 5), float(i))
        expected.append(latent.clone())
        kept.append(weakref.ref(latent))
        latents.add(latent, Recipe("a", seed=i))
    del latent
    assert all(each() is None for each in kept)
    assert len(load_file(path)["latents"]) == 8  # after 1, 2 and 4 batches
    latents.close()
    assert torch.equal(load_file(path)["latents"], torch.cat(expected))
    assert sorted(os.listdir(tmp_path)) == ["l.safetensors"]


def test_a_random_seed_is_told_and_kept(generate, capsys) -> None:
    assert generate("a", *SMALL[:3], "-s", "-1") == 0
    streams = capsys.readouterr()
    seed = next(line.split()[1] for line in streams.err.splitlines() if line.startswith("seed "))
    assert 0 <= int(seed) < 2**32
    assert streams.out == f"out/{seed}-0000.png\n"


def test_the_models_own_defaults(generate) -> None:
    assert generate("a", "--steps=1", "-o", "a.png") == 0
    recipe, _ = read_recipe(Path("a.png"))
    assert (recipe.width, recipe.height, recipe.sampler, recipe.guidance) == (64, 64, "pndm", 7.5)


def test_quiet_prints_the_path_alone(generate, capsys) -> None:
    assert generate("a", *SMALL, "-q") == 0
    streams = capsys.readouterr()
    assert (streams.out, streams.err) == ("out/7-0000.png\n", "")


def test_progress_is_for_terminals(generate, capsys, monkeypatch) -> None:
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert generate("a", *SMALL, "-b", "2") == 0
    assert "4/4" in capsys.readouterr().err


def test_without_a_model_the_shipped_one_is_used_and_said(
    tiny_folder, tmp_path, monkeypatch, capsys
) -> None:
    from sd_scratch.checkpoints import shipped

    monkeypatch.setattr(shipped, "weights_folder", lambda: tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "scenes").symlink_to(tiny_folder)
    assert main(["generate", "a", *SMALL, "-o", "a.png", "--device=cpu"]) == 0
    assert "model: scenes" in (error := capsys.readouterr().err)
    assert "sd-scratch generate -m sd15" in error
    assert read_recipe(Path("a.png"))[0].model == "scenes"
    assert main(["generate", "--from-image", "a.png", "-o", "b.png", "--device=cpu"]) == 0
    assert np.array_equal(pixels("a.png"), pixels("b.png"))


def test_a_plain_picture_is_told_from_one_that_shows_something() -> None:
    grey = np.full((8, 8, 3), 90, dtype=np.uint8)
    assert is_plain(Image.fromarray(grey))
    grey[0, 0, 1] += 2
    assert is_plain(Image.fromarray(grey))
    grey[0, 0, 1] += 1
    assert not is_plain(Image.fromarray(grey))


def test_threads_are_set(generate) -> None:
    before = torch.get_num_threads()
    try:
        assert generate("a", *SMALL, "-t", "1") == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_weights_are_hashed_only_for_the_record(generate, monkeypatch) -> None:
    from sd_scratch.checkpoints import load

    asked = []
    monkeypatch.setattr(load, "cached_sha256", lambda files: asked.append(files) or "0" * 64)
    assert generate("a", *SMALL, "--no-metadata", "-o", "a.png") == 0
    assert asked == []
    assert generate("a", *SMALL, "-o", "b.png") == 0
    assert len(asked) == 1


def test_weights_breaks_and_changes_are_obeyed(generate) -> None:
    def made(prompt: str, *words: str) -> bytes:
        assert generate(prompt, *SMALL, *words, "--overwrite", "-o", "a.png") == 0
        with Image.open("a.png") as picture:
            return picture.tobytes()

    plain = made("a red star")
    assert made("a (red:1.0) star") == plain != made("a (red:1.4) star")
    assert made("a (red:1.4) star", "--emphasis", "comfy") != made("a (red:1.4) star")
    assert made("a red BREAK star") != made("a red break star")
    assert made("a [red:blue:1] star", "--steps=3") != made("a red star", "--steps=3")
    assert made("a (red:1.0) star", "--syntax", "plain") != plain


def test_a_file_of_prompts(generate, capsys) -> None:
    Path("prompts.txt").write_text("a red star\n\na (blue:1.2) ring\r\n", encoding="utf-8")
    words = ("--prompt-file", "prompts.txt", *SMALL, "-b", "2", "-o", "{prompt}-{seed}.png")
    assert generate(*words) == 0
    assert [read_recipe(Path(p))[0].prompt for p in capsys.readouterr().out.split()] == [
        *["a red star"] * 2,
        *["a (blue:1.2) ring"] * 2,
    ]


def test_a_file_of_prompts_that_is_none(generate, capsys) -> None:
    for text, reason in (("\n", "holds no prompt"), ("a\nb AND c", "line 2 - AND at character 3")):
        Path("prompts.txt").write_text(text, encoding="utf-8")
        assert generate("--prompt-file", "prompts.txt") == 2
        assert reason in capsys.readouterr().err
    assert generate("a", "--prompt-file", "prompts.txt") == 2
    assert "given twice" in capsys.readouterr().err
    assert generate("--prompt-file", "none.txt") == 2
    assert "none.txt - cannot be read" in capsys.readouterr().err


def test_noise_as_a_graphics_card_draws_it_and_variations(generate, capsys) -> None:
    def made(*words: str) -> bytes:
        assert generate("a", *SMALL, *words, "--overwrite", "-o", "a.png") == 0
        with Image.open("a.png") as picture:
            return picture.tobytes()

    plain, card = made(), made("--rng", "nv")
    assert plain != card
    assert read_recipe(Path("a.png"))[0].rng == "nv"
    turned = made("--subseed", "5", "--subseed-strength", "0.3")
    assert turned != plain == made("--subseed", "5", "--subseed-strength", "0")
    words = ("--subseed", "4", "--subseed-strength", "0.3", "-b", "2", "-o", "{seed}-{index}.png")
    capsys.readouterr()
    assert generate("a", *SMALL, *words) == 0
    second = capsys.readouterr().out.split()[1]
    with Image.open(second) as picture:
        assert picture.tobytes() == turned
    assert read_recipe(Path(second))[0].subseed == 5


def test_processes_share_a_run_and_make_the_pictures_of_one(
    generate, monkeypatch, capsys, tmp_path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue star\n")
    words = [*SMALL, "--prompt-file", str(prompts), "-b", "3", "--batch-size", "2"]
    template = "{seed}-{prompt}.png"
    assert generate(*words, "-o", f"one/{template}") == 0
    capsys.readouterr()
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        assert generate(*words, "-o", f"two/{template}") == 0
        made.append(len(capsys.readouterr().out.splitlines()))
    assert made == [4, 2]  # batches of 2, 1, 2 and 1, in turn
    names = [file.name for file in sorted(Path("one").iterdir())]
    assert names == [file.name for file in sorted(Path("two").iterdir())]
    assert all(np.array_equal(pixels(f"one/{n}"), pixels(f"two/{n}")) for n in names)


@pytest.mark.parametrize("words", [["--overwrite"], ["--save-latents=a.safetensors"], ["-s", "-1"]])
def test_processes_refuse_what_they_cannot_share(generate, monkeypatch, capsys, words) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert generate("a red circle", *SMALL, *words) == 2
    assert "several processes would" in capsys.readouterr().err


def test_a_prompt_from_standard_input(generate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a red\nstar \n"))
    assert generate("-", *SMALL, "-o", "a.png") == 0
    assert read_recipe(Path("a.png"))[0].prompt == "a red\nstar"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--like=comfy", "--sampler=euler", "--schedule=ays"],
            "comfy has no schedule ays for euler",
        ),
        (["--like=a1111", "--sampler=DDIM", "--schedule=karras"], "no schedule karras for ddim"),
        (["--like=a1111", "--schedule=karras"], "name it with --sampler"),
        (["--styles=x"], "a style's words belong into the prompt"),
        (["--seed=1,2"], "from which -b counts up"),
        (["-o", "[seed].png"], "[seed] would stand in the name as it is: write {seed}"),
        (["-o", "%03d.png"], "%03d would stand in the name as it is"),
        (["--hires-upscaler=ESRGAN_4x"], "unknown 'esrgan-x'"),
    ],
)
def test_habits_of_other_tools_are_answered(generate, capsys, words: list[str], said: str) -> None:
    generate("a", *SMALL, *words)
    assert said in capsys.readouterr().err


def test_upscalers_by_a1111_s_names(generate) -> None:
    assert generate("a", *SMALL, "--hires", "--hires-upscaler=Latent (bicubic)", "-o", "a.png") == 0
    assert read_recipe(Path("a.png"))[0].hires_method == "latent-bicubic"
