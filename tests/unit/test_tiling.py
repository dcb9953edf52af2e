"""Seamless tiles: rolling the latent rolls the picture, and the shared networks stay as they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import sd_scratch as sd
from sd_scratch.dialects.a1111 import recipe_from_parameters
from sd_scratch.errors import UsageError
from sd_scratch.pipeline.part_way import enlarged
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json
from tests.tiny import tiny_model


def rolled(x: Tensor, axes: str, cells: int) -> Tensor:
    dims = [{"x": -1, "y": -2}[axis] for axis in axes]
    return x.roll([cells] * len(dims), dims)


@pytest.mark.parametrize("axes", ["x", "y", "xy"])
def test_the_networks_follow_a_roll(axes: str) -> None:
    model = tiny_model().with_tiling(axes)
    cell = model.config.vae.downscale
    stride = 2 ** (len(model.config.unet.block_out_channels) - 1)
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, 4, 16, 16, generator=generator)
    context = model.prompt("a cat").context
    with torch.no_grad():
        t = torch.tensor([300.0])
        eps = model.unet(latent, t, context)
        moved = model.unet(rolled(latent, axes, stride), t, context)
        assert torch.allclose(moved, rolled(eps, axes, stride), atol=1e-5)
        picture, shifted = (model.vae.decode(rolled(latent, axes, cells)) for cells in (0, 4))
        assert torch.allclose(shifted, rolled(picture, axes, 4 * cell), atol=1e-5)
        back = model.vae.encode(rolled(picture, axes, 4 * cell)).mean
        assert torch.allclose(back, rolled(model.vae.encode(picture).mean, axes, 4), atol=1e-5)
        others = {"x": "y", "y": "x", "xy": ""}[axes]
        for axis in others:
            assert not torch.allclose(
                model.vae.decode(rolled(latent, axis, 4)),
                rolled(picture, axis, 4 * cell),
                atol=1e-2,
            )


def test_the_shared_networks_stay_as_they_are() -> None:
    model = tiny_model()
    before = model.generate("a cat", model.noise(1), steps=2)
    tiled = model.with_tiling("xy")
    made = tiled.generate("a cat", tiled.noise(1), steps=2)
    assert tiled.unet is not model.unet
    assert tiled.unet.conv_in.weight.data_ptr() == model.unet.conv_in.weight.data_ptr()
    assert not torch.equal(made.latent, before.latent)
    again = model.generate("a cat", model.noise(1), steps=2)
    assert torch.equal(again.latent, before.latent)
    assert torch.equal(again.decode(), before.decode())
    # Noise of the other model is decoded by the one that ran.
    assert torch.equal(tiled.generate("a cat", model.noise(1), steps=2).decode(), made.decode())
    assert tiled.with_tiling("").unet.conv_in.wrap == ""


def test_a_recipe_and_a_trace_keep_it(tmp_path: Path) -> None:
    recipe = Recipe("a cat", steps=2, seed=1, tiling="xy", negative_prompt="")
    assert recipe_from_json(recipe.to_json(), "x").tiling == "xy"
    assert recipe_from_parameters(recipe.to_parameters(), "x")[0].tiling == "xy"
    model = tiny_model()
    tiled = model.with_tiling("xy")
    direct = tiled.generate("a cat", tiled.noise(1), steps=2)
    (made,) = model.run(recipe)
    assert torch.equal(made.latents.decode(), direct.decode())
    with tiled.record("sampler.x_next") as trace:
        tiled.generate("a cat", tiled.noise(1), steps=2)
    trace.save(tmp_path / "trace")
    assert torch.equal(model.replay(tmp_path / "trace").decode(), direct.decode())
    with model.record("sampler.x_next"), pytest.raises(UsageError, match="makes another model"):
        next(model.run(recipe))
    with pytest.raises(UsageError, match="tiling 'z'"):
        model.with_tiling("z")


@pytest.mark.parametrize("method", ["latent", "latent-bicubic-antialiased", "lanczos"])
@pytest.mark.parametrize("axes", ["x", "xy"])
def test_what_is_enlarged_goes_on_at_the_opposite_edge(method: str, axes: str) -> None:
    model = tiny_model().with_tiling(axes)
    cell = model.config.vae.downscale
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def grown(cells: int, tiling: str) -> np.ndarray:
        image = model.noise(1, 8 * cell, 8 * cell).with_latent(rolled(latent, axes, cells), t=0)
        large = enlarged(image, 1.5, method, tiling)
        if isinstance(large, list):
            return np.asarray(large[0]).astype(float)
        return large.latent[0].permute(1, 2, 0).numpy()

    def off(tiling: str) -> float:
        whole, moved = grown(0, tiling), grown(4, tiling)
        shift = 6 * (1 if method.startswith("latent") else cell)
        places = [{"x": 1, "y": 0}[axis] for axis in axes]
        return float(np.abs(moved - np.roll(whole, [shift] * len(places), places)).max())

    rounding = 1e-5 if method.startswith("latent") else 1.0  # of a level, where pixels are rounded
    assert off(axes) <= rounding < off("") / 3
    assert grown(0, axes).shape == grown(0, "").shape


def test_a_second_pass_of_tiles_is_made_of_tiles() -> None:
    settings = {
        "steps": 2,
        "seed": 1,
        "width": 32,
        "height": 32,
        "hires_scale": 2.0,
        "tiling": "xy",
    }
    (made,) = tiny_model().run(Recipe("a cat", **settings))
    tiled = tiny_model().with_tiling("xy")
    first = tiled.generate("a cat", tiled.noise(1, 32, 32), steps=2)
    larger = enlarged(first, 2.0, "latent", "xy")
    assert not isinstance(larger, list)
    assert not torch.equal(
        larger.latent, F.interpolate(first.latent, scale_factor=2, mode="bilinear")
    )
    second = tiled.generate("a cat", tiled.begin(larger, 0.7, steps=2), steps=2)
    assert torch.equal(made.latents.decode(), second.decode())


def steps_across(picture: np.ndarray) -> tuple[float, float]:
    """The largest step between neighbours across the middle column, and among all others."""
    steps = np.abs(np.diff(picture.astype(float), axis=1)).max((0, 2))
    middle = picture.shape[1] // 2 - 1
    return float(steps[middle]), float(np.delete(steps, middle).max())


def test_a_picture_of_scenes_has_no_seam() -> None:
    model = sd.load().with_tiling("xy")
    prompt = model.prompt("a large red heart on a blue background")
    image = model.generate(prompt, model.noise([1, 2, 3, 4]), steps=12)
    untiled = sd.load()
    plain = untiled.generate(prompt, untiled.noise([1, 2, 3, 4]), steps=12)
    for made in image.to_pil():
        for picture in (np.asarray(made), np.asarray(made).swapaxes(0, 1)):
            seam, inside = steps_across(np.roll(picture, picture.shape[1] // 2, 1))
            assert seam <= inside + 1
    # Rolled by half in the latent it is the same picture, rolled.
    half = image.latent.roll((4, 4), (2, 3))
    moved = image.with_latent(half).decode()
    assert float((moved - image.decode().roll((32, 32), (2, 3))).abs().max()) * 127.5 < 1
    rough = plain.with_latent(plain.latent.roll((4, 4), (2, 3))).decode()
    assert float((rough - plain.decode().roll((32, 32), (2, 3))).abs().max()) * 127.5 > 20
