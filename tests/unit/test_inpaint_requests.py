"""Masks and margins at the command line, in recipes, and in Python's `run`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from sd_scratch.checkpoints.save import save_folder
from sd_scratch.cli import main
from sd_scratch.config import TINY
from sd_scratch.dialects.stored_recipe import read_recipe
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.pictures.masks import region_around
from sd_scratch.pipeline.adapters import ControlUse
from sd_scratch.pipeline.mask_use import MaskUse
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json
from tests.tiny import tiny_components, tiny_model

SIDE = 32


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    for channels in (4, 8, 9):
        config = replace(TINY, unet=replace(TINY.unet, in_channels=channels))
        save_folder(tiny_components(config), place / str(channels))
    return place


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Two pictures and a mask; returns where it is white."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (SIDE, SIDE, 4), dtype=np.uint8)
    Image.fromarray(pixels[..., :3]).save("a.png")
    white = np.zeros((SIDE, SIDE), dtype=bool)
    white[10:20, 12:24] = True
    Image.fromarray(white).save("mask.png")
    pixels[..., 3] = np.where(white, 0, 255)
    Image.fromarray(pixels).save("holes.png")
    return white


def generate(folder: Path, *words: str) -> int:
    return main(["generate", "a circle", "-m", str(folder), "--steps", "3", "-s", "1", *words])


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def beyond(white: np.ndarray, reach: int) -> np.ndarray:
    top, left = (int(axis.min()) - reach for axis in np.nonzero(white))
    bottom, right = (int(axis.max()) + reach + 1 for axis in np.nonzero(white))
    far = np.ones_like(white)
    far[max(top, 0) : bottom, max(left, 0) : right] = False
    return far


@pytest.mark.parametrize("channels", ["4", "8", "9"])
def test_all_but_the_mask_is_kept(folders, here, channels):
    words = ["-i", "a.png", "--mask", "mask.png", "--mask-blur", "3", "-o", "b.png"]
    assert generate(folders / channels, *words) == 0
    far, old, new = beyond(here, 3), pixels("a.png"), pixels("b.png")
    assert np.array_equal(old[far], new[far])
    assert not np.array_equal(old[here], new[here])


def test_a_recipe_holds_the_mask_and_wants_its_files(folders, here, capsys):
    words = ["-i", "a.png", "--mask", "mask.png", "--like", "a1111", "--masked-content", "fill"]
    assert generate(folders / "4", *words, "-o", "b.png", "-b", "2") == 2  # two pictures, one name
    assert generate(folders / "4", *words, "-o", "b.png") == 0
    recipe, _ = read_recipe(Path("b.png"))
    use = recipe.mask
    assert (use.name, use.blend, use.content, use.feather) == ("mask.png", "a1111", "fill", 4)
    assert len(use.hash) == len(recipe.init_image_hash) == 10
    assert recipe.strength == 1.0

    again = ["generate", "--from-image", "b.png", "-m", str(folders / "4")]
    capsys.readouterr()
    assert main([*again, "-o", "c.png"]) == 2
    assert "the picture a.png" in (error := capsys.readouterr().err)
    assert "and its mask mask.png with --mask" in error
    assert main([*again, "-i", "a.png", "-o", "c.png"]) == 2
    assert "under the mask mask.png" in capsys.readouterr().err
    assert main([*again, "-i", "a.png", "--mask", "mask.png", "-o", "c.png"]) == 0
    assert "it will differ" not in capsys.readouterr().err
    assert np.array_equal(pixels("b.png"), pixels("c.png"))
    Image.fromarray(~here).save("mask.png")
    assert main([*again, "-i", "a.png", "--mask", "mask.png", "-o", "d.png"]) == 0
    assert "mask.png is not the file that the picture was made from" in capsys.readouterr().err


@pytest.mark.parametrize("channels", ["4", "8", "9"])
def test_only_the_masked_part_is_painted_at_a_size_of_its_own(folders, channels, capsys):
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (90, 131, 3), dtype=np.uint8)).save("large.png")
    white = np.zeros((90, 131), dtype=bool)
    white[60:80, 100:125] = True
    Image.fromarray(white).save("part.png")
    words = ["-i", "large.png", "--mask", "part.png", "--only-masked", "6", "--mask-blur", "3"]
    assert generate(folders / channels, *words, "-W", "48", "-H", "32", "-o", "b.png") == 0
    assert "resized" not in capsys.readouterr().err
    far, old, new = beyond(white, 3), pixels("large.png"), pixels("b.png")
    assert np.array_equal(old[far], new[far]) and not np.array_equal(old[white], new[white])
    recipe, _ = read_recipe(Path("b.png"))
    assert recipe.mask.padding == 6 and (recipe.width, recipe.height) == (48, 32)
    assert "Inpaint area: Only masked, Masked area padding: 6" in recipe.to_parameters()
    again = ["generate", "--from-image", "b.png", "-m", str(folders / channels)]
    assert main([*again, "-i", "large.png", "--mask", "part.png", "-o", "c.png"]) == 0
    assert np.array_equal(new, pixels("c.png"))


def test_only_the_masked_part_by_itself_is_the_models_size(here):
    model, recipe = tiny_model(), Recipe("a circle", seed=1, steps=2)
    picture = Image.open("a.png").convert("RGB")
    use = recipe.over(mask=MaskUse(padding=2))
    (made,) = model.run(use, init_image=picture, mask=here)
    assert made.latents.width == model.config.sample_size
    canvas = model.canvas(picture, here, padding=2)
    assert canvas.region == (10, 7, 26, 23) and canvas.cells.mean() < 1
    assert made.to_pil()[0].size == picture.size
    for changed, words in (
        (replace(use, mask=MaskUse(padding=2, extend=(8, 0, 0, 0))), "and margins or a ControlNet"),
        (replace(use, controls=(ControlUse("x"),)), "recipe's controls are x"),
    ):
        with pytest.raises(UsageError, match=words):
            next(model.run(changed, init_image=picture, mask=here))
    with pytest.raises(UsageError, match="without a mask"):
        next(model.run(use, init_image=picture))


def test_the_part_is_the_one_that_diffusers_takes():
    rng = np.random.default_rng(2)
    crop = VaeImageProcessor().get_crop_region
    for _ in range(60):
        height, width = rng.integers(20, 90, 2)
        white = np.zeros((height, width), dtype=bool)
        top, left = rng.integers(0, height - 4), rng.integers(0, width - 4)
        white[top : top + rng.integers(1, 30), left : left + rng.integers(1, 30)] = True
        size = tuple(int(side) for side in rng.choice([32, 48, 64, 96], 2))
        pad = int(rng.integers(0, 12))
        theirs = crop(Image.fromarray(white.astype(np.uint8) * 255), *size, pad=pad)
        # They divide in floating point.
        assert np.abs(np.array(region_around(white, size, pad)) - theirs).max() <= 1
    assert region_around(np.zeros((20, 30), dtype=bool), (64, 64), 5) == (0, 0, 30, 20)


def test_what_is_transparent_is_painted(folders, here):
    assert generate(folders / "4", "-i", "holes.png", "--mask-alpha", "-o", "b.png") == 0
    assert generate(folders / "4", "-i", "a.png", "--mask", "mask.png", "-o", "c.png") == 0
    far, old = beyond(here, 4), pixels("a.png")
    assert np.array_equal(pixels("b.png")[far], old[far])
    again = ["generate", "--from-image", "b.png", "-m", str(folders / "4"), "-i", "holes.png"]
    assert main([*again, "-o", "d.png"]) == 0
    assert np.array_equal(pixels("b.png"), pixels("d.png"))


def test_a_picture_is_extended(folders, capsys):
    words = ["-i", "a.png", "--extend", "left=16,bottom=7", "--mask-blur", "2"]
    assert generate(folders / "4", *words, "-o", "b.png") == 0
    assert "bottom=7: 8 pixels, a multiple of 8" in capsys.readouterr().err
    new = pixels("b.png")
    assert new.shape == (SIDE + 8, SIDE + 16, 3)
    assert np.array_equal(new[: SIDE - 2, 18:], pixels("a.png")[:-2, 2:])
    recipe, _ = read_recipe(Path("b.png"))
    assert recipe.mask.extend == (16, 0, 0, 8)
    assert recipe.mask.content == "fill"
    again = ["generate", "--from-image", "b.png", "-m", str(folders / "4"), "-i", "a.png"]
    assert main([*again, "-o", "c.png"]) == 0
    assert np.array_equal(pixels("b.png"), pixels("c.png"))


def test_a_mask_that_keeps_all_is_the_picture_and_is_said(folders, capsys):
    Image.new("L", (SIDE, SIDE)).save("black.png")
    Image.new("L", (SIDE, SIDE), 255).save("white.png")
    assert generate(folders / "4", "-i", "a.png", "--mask", "black.png", "-o", "b.png") == 0
    assert "the mask keeps all of the picture" in capsys.readouterr().err
    assert np.array_equal(pixels("a.png"), pixels("b.png"))
    assert generate(folders / "4", "-i", "a.png", "--mask", "white.png", "-o", "c.png") == 0
    assert "the mask keeps nothing of the picture" in capsys.readouterr().err


def test_a_mask_of_another_size_is_resized_and_said(folders, here, capsys):
    Image.fromarray(here.repeat(2, 0).repeat(3, 1)).save("large.png")
    assert generate(folders / "4", "-i", "a.png", "--mask", "large.png", "-o", "b.png") == 0
    assert "the mask is resized from 96x64 to 32x32 pixels" in capsys.readouterr().err
    far = beyond(here, 4)
    assert np.array_equal(pixels("a.png")[far], pixels("b.png")[far])


def test_no_strength_under_a_mask_takes_no_steps(folders, here, capsys):
    words = ["-i", "a.png", "--mask", "mask.png", "--strength", "0", "-o", "b.png"]
    assert generate(folders / "4", *words) == 0
    assert "strength 0" in capsys.readouterr().err
    assert np.array_equal(pixels("a.png")[beyond(here, 4)], pixels("b.png")[beyond(here, 4)])


MASK = ["-i", "a.png", "--mask", "mask.png"]


@pytest.mark.parametrize(
    ("channels", "words", "line"),
    [
        ("4", ["--mask", "mask.png"], "--mask without a picture"),
        ("4", ["--extend", "left=8"], "--extend without a picture"),
        ("4", ["-i", "a.png", "--mask-blur", "3"], "--mask-blur without a mask"),
        ("4", ["-i", "a.png", "--only-masked"], "--only-masked without a mask"),
        ("4", [*MASK, "--only-masked", "8", "--extend", "left=8"], "choose one"),
        ("4", ["-i", "a.png", "--mask", "none.png"], "none.png"),
        ("4", ["-i", "a.png", "--mask-alpha"], "a.png - has nothing transparent in it"),
        ("4", [*MASK, "--mask-alpha"], "a picture has one mask"),
        ("4", ["-i", "a.png", "--extend", "up=8"], "write each side once"),
        ("4", ["-i", "a.png", "--extend", "left=-8"], "write each side once"),
        ("4", ["-i", "a.png", "--extend", "left=8,left=8"], "write each side once"),
        ("4", ["-i", "a.png", "--extend", "left=0"], "no side is extended"),
        ("4", ["-i", "a.png", "--extend", "left=8", "-W", "64"], "leave out the size"),
        ("4", ["-i", "a.png", "--mask", "broken.png"], "broken.png - "),
        ("4", [*MASK, "--image-cfg-scale", "2"], "for an InstructPix2Pix checkpoint"),
        ("4", [*MASK, "--mask-blur", "99"], "a feather of 99 pixels"),
        ("9", [], "it needs a picture and a mask"),
        ("9", ["-i", "a.png"], "it needs a mask beside the picture"),
        ("8", [], "it needs a picture, which it changes"),
    ],
)
def test_bad_usage(folders, channels, words, line, capsys):
    Path("broken.png").write_bytes(Path("a.png").read_bytes()[:400])
    assert generate(folders / channels, *words, "-o", "b.png") in (1, 2)
    err = capsys.readouterr().err
    assert line in err and err.count("\n") <= 3
    assert not Path("b.png").exists()


def test_instruct_pix2pix_hears_how_strongly_the_picture_steers(folders):
    for scale, name in (("1.2", "b.png"), ("3", "c.png")):
        words = ["-i", "a.png", "--image-cfg-scale", scale, "-o", name]
        assert generate(folders / "8", *words) == 0
    assert not np.array_equal(pixels("b.png"), pixels("c.png"))
    assert read_recipe(Path("c.png"))[0].image_guidance == 3.0
    assert generate(folders / "8", "-i", "a.png", "--image-cfg-scale", "0", "-o", "e.png") == 0
    assert read_recipe(Path("e.png"))[0].image_guidance == 0.0
    assert generate(folders / "8", "-i", "a.png", "-o", "d.png") == 0
    assert read_recipe(Path("d.png"))[0].image_guidance == 1.5


def test_python_runs_the_same(here):
    model = tiny_model()
    picture, mask = Image.open("a.png").convert("RGB"), Image.open("mask.png")
    recipe = Recipe("a circle", steps=3, seed=1)
    (made,) = model.run(recipe, init_image=picture, mask=mask)
    assert made.recipes[0].mask.blend == "diffusers" and made.recipes[0].strength == 1.0
    new, far = np.asarray(made.to_pil()[0]), beyond(here, 4)
    assert np.array_equal(new[far], np.asarray(picture)[far])
    recipe = replace(recipe, mask=MaskUse(extend=(8, 0, 0, 0)))
    (made,) = model.run(recipe, init_image=picture)
    assert made.to_pil()[0].size == (40, 32)
    for wrong, line in (
        (replace(recipe, mask=MaskUse(name="m.png")), "where the mask m.png is white"),
        (replace(recipe, width=64), "leave out the size"),
    ):
        with pytest.raises(UsageError, match=line):
            list(model.run(wrong, init_image=picture))
    with pytest.raises(UsageError, match="give it as init_image"):
        list(model.run(recipe))


@pytest.mark.parametrize(
    "bad", ["{}", "[]", '["a", "x!", false, "", "", 4, [0,0,0,0]]', "[1,2,3,4,5,6,7]",
            '["a", "", false, "", "", 4, [0,0,0,0], -1]', '["a", "", false, "", "", -4, [0,0,0,0]]',
            '["a", "", false, "x", "", 4, [0,0,0,0]]']
)  # fmt: skip
def test_a_strangers_mask_is_checked(bad):
    with pytest.raises(ScratchError, match=r"x\.png - `mask` must be \[name"):
        recipe_from_json(f'{{"prompt": "a", "mask": {bad}}}', "x.png")
