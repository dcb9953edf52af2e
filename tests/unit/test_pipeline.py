from dataclasses import replace

import pytest
import torch

from sd_scratch.config import TINY
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.errors import ScratchError, UsageError
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(model, sampler):
    prompt = model.prompt("a cat")
    batch = model.generate(prompt, model.noise([5, 6, 7]), sampler=sampler, steps=3)
    alone = model.generate(prompt, model.noise(6), sampler=sampler, steps=3)
    assert batch.seeds == (5, 6, 7) and batch.t == 0
    assert torch.equal(model.noise([5, 6]).latent[1], model.noise(6).latent[0])
    assert (batch.latent[1] - alone.latent[0]).abs().max() < 2e-3


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_steps_end_where_generate_ends(model, sampler, steps):
    prompt, noise = model.prompt("a cat"), model.noise(1)
    seen = list(model.steps(prompt, noise, sampler=sampler, steps=steps))
    assert [step.index for step in seen] == list(range(len(seen)))
    assert seen[0].t > 500  # also with one step
    image = model.generate(prompt, noise, sampler=sampler, steps=steps)
    assert torch.equal(seen[-1].x_next, image.latent)


def test_generating_leaves_its_inputs_alone(model):
    prompt, noise = model.prompt("a cat"), model.noise(1)
    context, latent = prompt.context.clone(), noise.latent.clone()
    image = model.generate(prompt, noise, steps=2)
    before = image.latent.clone()
    image.to_pil()
    assert torch.equal(prompt.context, context)
    assert torch.equal(noise.latent, latent)
    assert torch.equal(image.latent, before)


def test_guidance_of_one_and_zero_are_the_two_branches(model):
    prompt, noise = model.prompt("a cat"), model.noise(1)
    settings = {"sampler": "ddim", "steps": 2}
    cond = model.generate(prompt, noise, guidance=1.0, **settings).latent
    almost = model.generate(prompt, noise, guidance=1.0 + 1e-6, **settings).latent
    assert (cond - almost).abs().max() < 1e-3
    uncond = model.generate(prompt, noise, guidance=0.0, **settings).latent
    empty = model.generate(model.prompt(""), noise, guidance=1.0, **settings).latent
    assert torch.equal(uncond, empty)
    assert (cond - uncond).abs().max() > 1e-2


def test_guidance_of_one_calls_the_unet_with_half_the_batch(model, monkeypatch):
    sizes = []
    forward = model.unet.forward
    monkeypatch.setattr(
        model.unet, "forward", lambda x, *rest: sizes.append(len(x)) or forward(x, *rest)
    )
    for guidance in (1.0, 0.0, 7.5):
        model.generate("a cat", model.noise([1, 2]), guidance=guidance, sampler="ddim", steps=1)
    assert sizes == [2, 2, 4]


def test_a_negative_prompt_takes_the_place_of_the_empty_one(model):
    prompt, noise = model.prompt("a cat"), model.noise(1)
    plain = model.generate(prompt, noise, steps=2).latent
    assert torch.equal(model.generate(prompt, noise, steps=2, negative="").latent, plain)
    other = model.generate(prompt, noise, steps=2, negative="a dog").latent
    assert (other - plain).abs().max() > 1e-3
    same = model.generate(prompt, noise, steps=2, negative="a cat", guidance=7.5).latent
    alone = model.generate(prompt, noise, steps=2, guidance=1.0).latent
    assert (same - alone).abs().max() < 1e-3


def test_one_prompt_for_each_image(model):
    cat, dog = model.prompt("a cat"), model.prompt("a dog")
    both = model.generate([cat, dog], model.noise([1, 1]), sampler="ddim", steps=2).latent
    for i, prompt in enumerate((cat, dog)):
        alone = model.generate(prompt, model.noise(1), sampler="ddim", steps=2).latent
        assert (both[i] - alone[0]).abs().max() < 1e-3
    with pytest.raises(ScratchError, match="2 prompts for 3 images"):
        model.generate([cat, dog], model.noise([1, 2, 3]))


@pytest.mark.parametrize(("width", "height"), [(4, 4), (36, 64), (64, 36), (4, 64)])
def test_every_multiple_of_a_cell_is_a_size(model, width, height):
    picture = model.generate("a cat", model.noise(1, width, height), steps=2)
    assert (picture.width, picture.height) == (width, height)
    assert picture.to_pil()[0].size == (width, height)


@pytest.mark.parametrize(
    ("side", "nearest"), [(65, "64 or 68"), (0, "4"), (-8, "4"), (3, "4 or 8"), (63, "60 or 64")]
)
def test_other_sizes_are_refused_with_the_nearest(model, side, nearest):
    with pytest.raises(
        ScratchError, match=f"not a positive multiple of 4 - use {nearest}$"
    ) as error:
        model.noise(1, width=side)
    assert isinstance(error.value, UsageError)


def test_latents_that_are_not_finite_stop_the_run(model):
    prompt = model.prompt("a cat")
    broken = prompt.with_context(prompt.context * float("nan"))
    with pytest.raises(ScratchError, match="sample of step 1 of 3 is not finite"):
        model.generate(broken, model.noise(1), sampler="ddim", steps=3)


def test_a_decoded_picture_that_is_not_finite_is_never_returned(model):
    noise = model.noise(1)
    broken = noise.with_latent(noise.latent * float("nan"))
    with pytest.raises(ScratchError, match="not finite"):
        broken.to_pil()


def test_an_overflow_of_the_decoder_in_half_precision_is_decoded_again_in_fp32():
    model = tiny_model()
    model.vae.half()
    model.vae.decoder.conv_norm_out.weight.fill_(6e4)
    model.vae.decoder.conv_norm_out.bias.fill_(6e4)
    image = model.noise(1).decode()
    assert image.dtype == torch.float32 and image.isfinite().all()
    assert model.vae.post_quant_conv.weight.dtype == torch.float16


def test_pictures_and_latents_are_ways_into_each_other(model):
    pictures = model.noise([1, 2]).to_pil()
    image = model.encode(pictures, seed=9)
    assert image.latent.shape == (2, 4, 16, 16)
    assert image.t == 0 and image.seeds == (9, 10)
    noised = image.noised(999)
    assert noised.t == 999
    eps = model.noise([9, 10]).latent
    expected = model.schedule.add_noise(image.latent, eps, 999)
    assert torch.equal(noised.latent, expected)


def test_an_inpainting_unet_is_refused_by_name():
    model = tiny_model(replace(TINY, unet=replace(TINY.unet, in_channels=9)))
    with pytest.raises(ScratchError, match="inpainting checkpoint") as error:
        model.generate("a cat", model.noise(1))
    assert isinstance(error.value, UsageError)


def test_an_unknown_sampler_and_unknown_options(model):
    with pytest.raises(ScratchError, match="ddim"):
        model.generate("a cat", model.noise(1), sampler="dimm")
    with pytest.raises(ScratchError, match="no option 'eta'"):
        model.generate("a cat", model.noise(1), sampler="lms", eta=1.0)


def test_no_global_random_state_is_touched(model):
    state = torch.random.get_rng_state()
    model.generate("a cat", model.noise(1), sampler="ddpm", steps=3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_v_prediction_runs_and_differs():
    eps = tiny_model()
    v = tiny_model(prediction_type="v_prediction")
    one = eps.generate("a cat", eps.noise(1), steps=3).latent
    other = v.generate("a cat", v.noise(1), steps=3).latent
    assert other.isfinite().all()
    assert (one - other).abs().max() > 1e-2


# From half way ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_begins_where_its_latent_stands(model, sampler):
    done = model.generate("a cat", model.noise(1), steps=4, sampler=sampler)
    settings = {"steps": 10, "sampler": sampler}
    whole = [step.t for step in model.steps(model.prompt("a cat"), model.noise(1), **settings)]
    for t in (150, 500, 980):
        taken = list(model.steps(model.prompt("a dog"), done.noised(t), **settings))
        assert [step.t for step in taken] == [t_ for t_ in whole if t_ <= t]
        assert torch.equal(taken[0].x_t, done.noised(t).latent) or sampler not in ("ddim", "pndm")
        assert model.generate("a dog", done.noised(t), **settings).t == 0


def test_where_nothing_is_left_to_be_denoised_a_line_says_so(model):
    done = model.generate("a cat", model.noise(1), steps=2)
    with pytest.raises(UsageError, match="t = 0, a finished picture"):
        model.generate("a cat", done)
    with pytest.raises(UsageError, match="below the ladder's last rung"):
        model.generate("a cat", done.with_latent(done.latent, t=0.5))
    for t in (-1, 1000, 2000):
        with pytest.raises(UsageError, match="0 to 999"):
            done.noised(t)


def test_a_ladder_of_ones_own(model):
    ladder = model.schedule.ladder_of_sigmas([10.0, 3.0, 1.0, 0.2])
    taken = list(
        model.steps(model.prompt("a cat"), model.noise(1), sampler="euler", schedule=ladder)
    )
    assert [step.sigma for step in taken] == pytest.approx([10.0, 3.0, 1.0, 0.2])
    with pytest.raises(UsageError, match="did you mean karras"):
        model.generate("a cat", model.noise(1), schedule="karas")
