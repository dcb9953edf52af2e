"""A picture to paint on: the blends by their definitions, and what is kept."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sd_scratch.config import TINY
from sd_scratch.diffusion.prediction import noised
from sd_scratch.errors import UsageError
from tests.tiny import tiny_model

SIDE, SEED, STEPS = 32, 3, 5


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def white():
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[5:20, 10:30] = True
    return mask


def answers(model, canvas, blend):
    """A run of Euler with a blend: its latent, and a function that asks the network as the run did."""
    context = torch.cat([model.prompt(text).context for text in ("", "a star")])

    def eps(x, t):
        with torch.no_grad():
            t = torch.full((2,), float(t))
            uncond, cond = model.unet(torch.cat([x, x]), t, context, []).float().chunk(2)
        return uncond + 7.5 * (cond - uncond)

    noise = model.noise(SEED, SIDE, SIDE)
    way = {"sampler": "euler", "steps": STEPS, "schedule": "trailing"}
    canvas = replace(canvas, blend=blend)
    return model.generate("a star", noise, canvas=canvas, guidance=7.5, **way).latent, eps, noise


@pytest.mark.parametrize("blend", ["diffusers", "a1111", "comfy"])
def test_the_blends_are_what_they_are_in_sigma_space(model, drawn, white, blend):
    """Euler as k-diffusion writes it, with each tool's own line for the mask."""
    canvas = model.canvas(drawn, white)
    made, eps, noise = answers(model, canvas, blend)
    ladder = model.way("euler", STEPS, "trailing").ladder
    m, x0, n = canvas.cells, canvas.picture.latent, noise.latent
    x = n * ladder.sigmas[0]
    for i, (sigma, t) in enumerate(zip(ladder.sigmas, ladder.timesteps, strict=True)):
        below = ladder.sigmas[i + 1] if i + 1 < STEPS else 0.0
        seen = m * x + (1 - m) * (x0 + sigma * n) if blend == "comfy" else x
        denoised = seen - sigma * eps(seen / math.sqrt(sigma**2 + 1), t)
        if blend != "diffusers":
            denoised = m * denoised + (1 - m) * x0
        x = x + (x - denoised) / sigma * (below - sigma)
        if blend == "diffusers":
            x = m * x + (1 - m) * (x0 + below * n)
    x = m * x + (1 - m) * x0
    assert (made - x).abs().max() < 1e-4 * x.abs().max()
    kept = (m == 0).expand_as(made)
    assert torch.equal(made[kept], x0[kept])


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_a_blended_answer_is_one_of_the_networks_kind(kind, drawn, white):
    model = tiny_model(prediction_type=kind)
    canvas = model.canvas(drawn, white, blend="a1111")
    way = {"sampler": "ddim", "steps": STEPS}
    for step in model.steps("a star", model.noise(SEED, SIDE, SIDE), canvas=canvas, **way):
        kept = (canvas.cells == 0).expand_as(step.x0)
        off = step.x0[kept] - canvas.picture.latent[kept]
        assert off.abs().max() < 1e-3 * canvas.picture.latent.abs().max()


@pytest.mark.parametrize("sampler", ["pndm", "heun", "euler_a", "dpmpp_2m", "lcm", "unipc"])
@pytest.mark.parametrize("blend", ["diffusers", "a1111", "comfy"])
def test_every_sampler_ends_with_what_is_kept(model, drawn, white, sampler, blend):
    canvas = model.canvas(drawn, white, blend=blend)
    made = model.generate(
        "a star", model.noise([1, 2], SIDE, SIDE), canvas=canvas, sampler=sampler, steps=4
    )
    kept = (canvas.cells == 0).expand_as(made.latent)
    assert torch.equal(made.latent[kept], canvas.picture.latent.expand_as(made.latent)[kept])
    assert not torch.equal(made.latent[:1], made.latent[1:])


def test_no_pixel_beyond_the_feather_changes(model, drawn, white):
    canvas = model.canvas(drawn, white, feather=3)
    made = model.generate("a star", model.noise(SEED, SIDE, SIDE), canvas=canvas, steps=4)
    (picture,) = canvas.finished(made.to_pil())
    far = np.ones_like(white)
    far[2:23, 7:33] = False
    new, old = np.asarray(picture), np.asarray(drawn)
    assert np.array_equal(new[far], old[far])
    assert np.array_equal(new[white], np.asarray(made.to_pil()[0])[white])


def test_what_is_under_the_mask_at_first(model, drawn, white):
    pure = model.noise(SEED, SIDE, SIDE)
    latents = {}
    for content in ("original", "fill", "noise"):
        canvas = model.canvas(drawn, white, content=content)
        picture = pure.with_latent(canvas.picture.latent, t=0)
        begun = model.begin(picture, 0.5, sampler="ddim", steps=10)
        latents[content] = canvas.under(begun, pure).latent
        cells = (canvas.cells > 0).expand_as(pure.latent)
        if content == "noise":
            assert torch.equal(latents[content][cells], pure.latent[cells])
    assert torch.equal(latents["original"][~cells], latents["noise"][~cells])
    assert not torch.equal(latents["original"], latents["fill"])
    assert canvas.under(picture, pure) is picture  # nothing is made anew


def test_a_canvas_that_paints_all_is_image_to_image(model, drawn):
    noise = model.begin(model.encode(drawn, SEED), 0.5, sampler="ddim", steps=6)
    way = {"sampler": "ddim", "steps": 6}
    with_canvas = model.generate("a star", noise, canvas=model.canvas(drawn), **way)
    assert torch.equal(with_canvas.latent, model.generate("a star", noise, **way).latent)


def test_bad_canvases_are_refused(model, drawn, white):
    with pytest.raises(UsageError, match="the mask is 32x16 and the picture 32x32"):
        model.canvas(drawn, white[:16])
    with pytest.raises(UsageError, match="blend 'x' is unknown - choose from diffusers"):
        model.canvas(drawn, white, blend="x")
    with pytest.raises(UsageError, match="content 'x' is unknown - choose from original"):
        model.canvas(drawn, white, content="x")
    with pytest.raises(UsageError, match="a feather of -2 pixels"):
        model.canvas(drawn, white, feather=-2)
    with pytest.raises(UsageError, match="own guidance is for an InstructPix2Pix"):
        model.canvas(drawn, guidance=1.5)
    canvas = model.canvas(drawn, white)
    with pytest.raises(UsageError, match="the picture to paint on is 32x32 and the noise 64x64"):
        next(iter(model.steps("a star", model.noise(1, 64, 64), canvas=canvas)))


def test_models_that_want_a_picture_say_what_is_missing(drawn, white):
    nine = tiny_model(replace(TINY, unet=replace(TINY.unet, in_channels=9)))
    with pytest.raises(UsageError, match="it needs a picture and a mask"):
        nine.generate("a cat", nine.noise(1))
    with pytest.raises(UsageError, match="it needs a mask beside the picture"):
        nine.canvas(drawn)
    eight = tiny_model(replace(TINY, unet=replace(TINY.unet, in_channels=8)))
    with pytest.raises(UsageError, match="InstructPix2Pix .*it needs a picture, which it changes"):
        eight.generate("a cat", eight.noise(1))


def test_instruct_pix2pix_shows_its_three_answers(drawn):
    eight = tiny_model(replace(TINY, unet=replace(TINY.unet, in_channels=8)))
    canvas = eight.canvas(drawn)
    assert canvas.guidance == 1.5
    with eight.record("guidance.*") as trace:
        eight.generate("a cat", eight.noise(1, SIDE, SIDE), canvas=canvas, steps=2, guidance=7.5)
    uncond, pictured, cond = (
        trace[f"guidance.pred_{name}"].tensor for name in ("uncond", "pictured", "cond")
    )
    expected = uncond + 1.5 * (pictured - uncond) + 7.5 * (cond - pictured)
    assert torch.allclose(trace["guidance.pred"].tensor, expected, atol=1e-5)
    assert not torch.equal(uncond, pictured)


def test_noise_of_the_kept_part_is_the_runs_first(model, drawn, white):
    canvas = model.canvas(drawn, white)
    noise = model.noise(SEED, SIDE, SIDE)
    ladder = model.way("ddim", 4).ladder
    steps = list(model.steps("a star", noise, canvas=canvas, sampler="ddim", steps=4))
    kept = (canvas.cells == 0).expand_as(noise.latent)
    for step, alpha_bar in zip(steps, ladder.alpha_bars[1:], strict=False):
        expected = noised(canvas.picture.latent, noise.latent, alpha_bar)
        assert torch.allclose(step.x_next[kept], expected[kept], atol=1e-6)


@pytest.mark.parametrize("painted", [False, True])
def test_a_trace_of_a_run_that_began_with_a_picture_is_made_again(
    model, drawn, white, tmp_path, painted
):
    canvas = model.canvas(drawn, white, blend="comfy", content="noise") if painted else None
    noise = model.begin(model.encode(drawn, SEED), 0.5, sampler="ddim", steps=4)
    with model.record("sampler.x_next") as trace:
        made = model.generate("a star", noise, canvas=canvas, sampler="ddim", steps=4)
    trace.save(tmp_path / "trace")
    assert torch.equal(model.replay(tmp_path / "trace").latent, made.latent)
