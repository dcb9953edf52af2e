"""What ``generate`` does with bad usage, strange prompts, broken weights, full disks and Ctrl-C."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sd_scratch.checkpoints import memory, save_folder
from sd_scratch.cli import load, main
from sd_scratch.config import TINY
from sd_scratch.dialects.stored_recipe import encode_picture, read_recipe
from sd_scratch.pipeline.recipe import Recipe
from tests.tiny import tiny_components

SMALL = ["--width=32", "--height=32", "--steps=2", "--seed=7"]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def generate(tiny_folder: Path):
    def run(*words: str, model: Path | str = tiny_folder) -> int:
        return main(["generate", *words, "-m", str(model), "--device=cpu"])

    return run


@pytest.fixture
def refused(generate, monkeypatch, capsys):
    """Run what must be refused before any weights are read; returns the one line of the error."""

    def no_weights(*arguments: object, **options: object) -> None:
        raise AssertionError("weights were read")

    def run(*words: str, code: int = 2, **model: Path) -> str:
        monkeypatch.setattr(load, "build_components", no_weights)
        assert generate(*words, **model) == code
        streams = capsys.readouterr()
        errors = [line for line in streams.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "Traceback" not in streams.err
        assert streams.out == ""
        return errors[0]

    return run


def pictures(folder: str = ".") -> list[str]:
    """Everything in a folder but the cache, so that forgotten temporary files show."""
    return sorted(name for name in os.listdir(folder) if name != "cache")


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


# Usage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["a", "-W", "500"], "500 is not a multiple of 8: use 496 or 504"),
        (["a", "-W", "0"], "'0' is not an integer from 8 to 8192"),
        (["a", "-W", "-8"], "not an integer from 8 to 8192"),
        (["a", "-H", "1000000"], "not an integer from 8 to 8192"),
        (["a", "-H", "64.0"], "not an integer"),
        (["a", "--steps", "0"], "not an integer from 1 to 1000"),
        (["a", "--steps", "1001"], "not an integer from 1 to 1000"),
        (["a", "--steps", "nan"], "not an integer from 1 to 1000"),
        (["a", "--cfg-scale", "nan"], "'nan' is not a number"),
        (["a", "--guidance-scale", "inf"], "'inf' is not a number"),
        (["a", "--seed", "-5"], "'-5' is not a seed: give -1 for a random one"),
        (["a", "--seed", "1.5"], "not a seed"),
        (["a", "--seed", "abc"], "not a seed"),
        (["a", "--seed", str(2**64)], "not a seed"),
        (["a", "--seed", str(2**64 - 1), "-b", "2"], "exceed 2^64-1"),
        (["a", "--eta", "2"], "not a number from 0 to 1"),
        (["a", "--clip-skip", "0"], "not an integer"),
        (["a", "--batch-size", "0"], "not an integer"),
        (["a", "--threads", "0"], "not an integer"),
        (["a", "--sampler", "dim"], "did you mean ddim?"),
        (["a", "--sampler", "pndm", "--eta", "0.5"], "pndm has no option 'eta'"),
        (["a", "--sampler-option", "order"], "write NAME=VALUE"),
        (["a", "--sampler", "lms", "--sampler-option", "order=two"], "order is an integer"),
        (["a", "--sampler", "pndm", "--sampler-option", "prk=1"], "prk is true or false"),
        (["a", "--dtype", "float8"], "unknown 'float8' - did you mean 'float"),
        (["a", "--text-cleaning", "none"], "there is openai, transformers"),
        (["a", "-p", "b"], "given twice"),
        ([], "no prompt"),
        (["a", "b"], "unrecognized arguments: b"),
        (["a", "--mask", "x.png"], "--mask without a picture to begin with"),
        (["a", "-o", "a.jpg"], "end the name with .png"),
        (["a", "-o", "/dev/null"], "end the name with .png"),
        (["a", "-b", "2", "-o", "a.png"], "one file for 2 pictures"),
        (["a", "-o", "-", "--json"], "both want standard output"),
        (["a", "--from-image", "missing.png"], "missing.png - cannot be read"),
        (["a\0b"], "NUL"),
        (["a\ud800b"], "half a character"),
        (["a", "-n", "b\0"], "NUL"),
        (["x" * 70_000], "70,000 bytes, the limit is 65,536"),
    ],
)
def test_bad_usage_is_refused_before_weights_are_read(
    refused, words: list[str], reason: str
) -> None:
    assert reason in refused(*words)
    assert not [path for path in Path().rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "gpu"])
def test_a_device_that_is_not_there_is_not_replaced(
    tiny_folder, monkeypatch, capsys, name: str
) -> None:

    monkeypatch.setattr("sd_scratch.pipeline.device.available_devices", lambda: ["cpu"])
    assert main(["generate", "a", "-m", str(tiny_folder), "--device", name]) == 2
    assert f"--device {name} - not available" in (error := capsys.readouterr().err)
    assert "there is cpu" in error


def test_a_model_that_is_not_there(capsys, tiny_folder) -> None:
    assert main(["generate", "a", "-m", str(tiny_folder.with_name("tinny"))]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "no such model" in error
    assert "did you mean" in error
    assert main(["generate", "a", "-m", "a.safetensors"]) == 2


def test_what_the_model_cannot_do_is_refused_before_its_weights_are_read(refused, tmp_path) -> None:
    assert "clip skip 4 is not in 1..3" in refused("a cat", "--clip-skip=4")
    inpainting = replace(TINY, unet=replace(TINY.unet, in_channels=9))
    save_folder(tiny_components(inpainting), tmp_path / "inpainting")
    error = refused("a cat", model=tmp_path / "inpainting")
    assert "is an inpainting checkpoint (9 input channels) - it needs a picture and a mask" in error


def test_an_output_that_exists_is_kept(refused) -> None:
    Path("a.png").write_bytes(b"old")
    assert "a.png exists" in refused("a", *SMALL, "-o", "a.png")
    Path("l.safetensors").write_bytes(b"old")
    assert "l.safetensors exists" in refused("a", *SMALL, "--save-latents", "l.safetensors")
    assert Path("a.png").read_bytes() == Path("l.safetensors").read_bytes() == b"old"


def test_outputs_that_are_no_files(refused) -> None:
    os.mkfifo("pipe.png")
    os.mkfifo("pipe.safetensors")
    Path("real").touch()
    Path("link.png").symlink_to("real")
    Path("folder.png").mkdir()
    assert "a device or a pipe" in refused("a", "-o", "pipe.png")
    assert "symbolic link" in refused("a", "-o", "link.png")
    assert "is a folder" in refused("a", "-o", "folder.png")
    assert "is a file, not a folder" in refused("a", "-o", "real/a.png", code=1)
    assert "a device or a pipe" in refused("a", "--save-latents", "pipe.safetensors")


def test_too_little_memory_is_refused_unless_forced(generate, monkeypatch, capsys) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda device: 1000)
    assert generate("a", *SMALL) == 1
    assert "of memory are free" in capsys.readouterr().err
    assert pictures("out") == []
    assert generate("a", *SMALL, "--force") == 0


# Numbers and shapes ------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(8, 8), (40, 24), (8, 128), (72, 8)])
def test_any_multiple_of_eight_works(generate, width: int, height: int) -> None:
    assert generate("a", "-W", str(width), "-H", str(height), "--steps=1", "-o", "a.png") == 0
    assert pixels("a.png").shape == (height, width, 3)


def test_sizes_far_from_training_are_warned_about(generate, monkeypatch, capsys, tmp_path) -> None:
    large = tmp_path / "cache" / "large"
    components = tiny_components()
    save_folder(replace(components, config=replace(components.config, sample_size=512)), large)
    for size, warned in ((248, True), (256, False)):
        assert (
            generate("a", f"-W={size}"[:2], str(size), "-H", "256", "--steps=1", model=large) == 0
        )
        assert ("sides from 256 to 1024 come out best" in capsys.readouterr().err) == warned


@pytest.mark.parametrize("sampler", ["pndm", "ddim", "ddpm", "lms"])
def test_one_step_starts_from_noise_and_shows_something(generate, capsys, sampler: str) -> None:
    assert generate("a", *SMALL[:2], "--steps=1", "-s=1", "--sampler", sampler, "-o", "a.png") == 0
    assert "one colour" not in capsys.readouterr().err


@pytest.mark.parametrize("scale", ["0", "1", "-2", "31"])
def test_any_finite_guidance_works(generate, capsys, scale: str) -> None:
    assert generate("a", *SMALL, "--cfg-scale", scale, "-o", "a.png") == 0
    assert ("far beyond the usual" in capsys.readouterr().err) == (scale == "31")


def test_largest_seed(generate) -> None:
    assert generate("a", *SMALL[:3], "--seed", str(2**64 - 1), "-o", "{seed}.png") == 0
    assert pictures() == [f"{2**64 - 1}.png"]


def test_half_precision_on_a_cpu_is_warned_about(generate, capsys) -> None:
    assert generate("a", *SMALL, "--dtype=float16", "-o", "a.png") == 0
    assert "warning: float16 is slow" in capsys.readouterr().err


# Prompts -----------------------------------------------------------------------------------------


def test_a_long_prompt_is_cut_and_says_where(generate, capsys) -> None:
    text = "word " * 75 + "lost words"
    assert generate(text, *SMALL, "--syntax", "plain", "-o", "a.png") == 0
    error = capsys.readouterr().err
    assert "warning: prompt: 77 tokens, the last 2 are ignored: 'lost words'" in error


def test_empty_prompts_are_the_unconditional_picture(generate) -> None:
    for name, prompt in (("empty", ""), ("blank", "  ")):
        assert generate(prompt, *SMALL, "-n", "", "-o", f"{name}.png") == 0
    assert np.array_equal(pixels("empty.png"), pixels("blank.png"))
    assert generate("anything", *SMALL, "--cfg-scale", "0", "-o", "uncond.png") == 0
    # Equal but for rounding: both branches of the guided one are the empty prompt.
    assert np.abs(pixels("empty.png").astype(int) - pixels("uncond.png")).max() <= 1


@pytest.mark.parametrize("prompt", ["a 🎨👩‍🚀 cat", "一只猫", "قطة", "e\u0301 ﬁ “x”", "a\tb\x07c"])
def test_any_text_works_and_comes_back(generate, prompt: str, capsys) -> None:
    assert generate(prompt, *SMALL, "-o", "a.png") == 0
    assert read_recipe(Path("a.png"))[0].prompt == prompt
    assert ("control characters" in capsys.readouterr().err) == ("\x07" in prompt)


def test_the_models_own_marks_are_warned_about(generate, capsys) -> None:
    assert generate("a <|endoftext|> b", *SMALL, "-o", "a.png") == 0
    assert capsys.readouterr().err.count("read as the model's own marks") == 1


# Broken weights ----------------------------------------------------------------------------------


def broken(folder: Path, part: str, name: str, value: float) -> Path:
    components = tiny_components()
    dict(getattr(components, part).named_parameters())[name].fill_(value)
    save_folder(components, folder)
    return folder


@pytest.mark.parametrize(
    ("part", "name"), [("unet", "conv_in.bias"), ("vae", "decoder.conv_in.bias")]
)
def test_a_picture_that_is_not_a_number_is_never_written(
    generate, tmp_path, capsys, part: str, name: str
) -> None:
    model = broken(tmp_path / "cache" / "broken", part, name, 3e38)  # its square is infinite
    assert generate("a", *SMALL, "-b", "2", "--save-latents=l.safetensors", model=model) == 1
    streams = capsys.readouterr()
    assert "not finite" in streams.err
    assert streams.out == ""
    assert pictures() == ["out"]
    assert pictures("out") == []


def test_a_picture_of_one_colour_is_warned_about(generate, tmp_path, capsys) -> None:
    model = broken(tmp_path / "cache" / "broken", "vae", "decoder.conv_out.weight", 0.0)
    assert generate("a", *SMALL, model=model) == 0
    assert "the picture of seed 7 is of one colour" in capsys.readouterr().err


# Disks and interruptions -------------------------------------------------------------------------


# Pictures from strangers ---------------------------------------------------------------------------


def stranger(recipe: Recipe) -> str:
    Path("theirs.png").write_bytes(encode_picture(Image.new("RGB", (8, 8)), recipe))
    return "theirs.png"


@pytest.mark.parametrize(
    "name",
    ["evil", "/tmp/evil.safetensors", "../evil.ckpt", "folder/model", "a/b/c", "", "x" * 1000],
)
def test_a_picture_cannot_choose_a_file(capsys, monkeypatch, name: str) -> None:
    def no_layout(*arguments: object, **options: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(load, "read_layout", no_layout)
    Path("folder/model").mkdir(parents=True)
    picture = stranger(Recipe(prompt="a", model=name))
    assert main(["generate", "--from-image", picture, "--device=cpu"]) == 2
    assert (
        "a picture cannot choose a file or a download - name the model with -m"
        in capsys.readouterr().err
    )


def test_a_picture_chooses_neither_a_model_of_the_hub_nor_a_revision(monkeypatch, capsys) -> None:
    asked = []
    monkeypatch.setattr(load, "read_layout", lambda source, **o: asked.append((source, o)) or 1 / 0)
    picture = stranger(Recipe(prompt="a", model="owner/name", revision="abc"))
    assert main(["generate", "--from-image", picture, "--device=cpu"]) == 2
    assert "cannot choose a file or a download" in capsys.readouterr().err
    others = {"vae": "/etc/passwd", "text_encoder": "owner/name", "ema": True}
    picture = stranger(Recipe(prompt="a", model="sd15", revision="../../x", **others))
    assert main(["generate", "--from-image", picture, "--device=cpu"]) == 1
    none = {"revision": None, "vae": None, "text_encoder": None}
    assert asked == [("sd15", {"offline": False, "ema": False, **none})]


def test_hostile_settings_in_a_picture(refused) -> None:
    for recipe, reason in (
        (Recipe(prompt="a", sampler="__class__"), "by the sampler __class__, which is not here"),
        (Recipe(prompt="a", sampler="ddim", sampler_options={"model": 1}), "no option 'model'"),
        (Recipe(prompt="a", sampler="ddim", sampler_options={"eta": "x"}), "eta is a number"),
        (Recipe(prompt="a\0"), "NUL"),
    ):
        assert reason in refused("--from-image", stranger(recipe))
    assert "must be an integer" in refused(
        "--from-image", stranger(Recipe(prompt="a", seed=-2)), code=1
    )


def test_a_picture_without_settings(refused) -> None:
    Image.new("RGB", (8, 8)).save("plain.png")
    assert "holds no prompt and settings" in refused("--from-image", "plain.png", code=1)
    Path("page.png").write_text("<html>")
    assert "not a PNG file" in refused("--from-image", "page.png")
