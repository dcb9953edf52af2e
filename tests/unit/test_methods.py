"""Well-known methods, each a few lines on top of named tensors, against definitions written apart."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.config import TINY
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.diffusion.samplers.ddim_inverse import ddim_inverse
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.errors import ScratchError
from sd_scratch.mapping.daam import LAYERS, daam
from sd_scratch.mapping.inversion import invert
from sd_scratch.mapping.lens import lens
from sd_scratch.mapping.prompt_to_prompt import align, prompt_to_prompt, spread
from sd_scratch.tensors import At
from sd_scratch.tensors.edits import reweight, shift
from sd_scratch.tensors.reductions import mean_over_calls
from tests.denoisers import gaussian, lively
from tests.tiny import tiny_model

CROSS = "unet.*.attn2.probs"


@pytest.fixture(scope="module")
def model():
    return tiny_model()


# DAAM -----------------------------------------------------------------------------------------


def castorini(steps: list[dict[str, Tensor]], latent: int, positions: list[int]) -> Tensor:
    """DAAM as its authors' program computes it: the doubled batch of a square picture with guidance,
    `heads` rows for each branch, the second half kept; sums over steps by layer and head; bicubic,
    clamped, stacked, mean; then the mean of the word's tokens. `steps` has ``[2 * heads, h * w, 77]``.
    """
    sums: dict[tuple[str, int], Tensor] = {}
    for step in steps:
        for layer, probs in step.items():
            side = math.isqrt(probs.shape[1])
            maps = torch.stack(
                [
                    column.view(-1, side, side)[len(column) // 2 :]
                    for column in probs.permute(2, 0, 1)
                ]
            )  # [tokens, heads, h, w]
            for head, heat in enumerate(maps.permute(1, 0, 2, 3)):
                sums[layer, head] = sums.get((layer, head), 0) + heat
    merged = [
        F.interpolate(heat.unsqueeze(1), size=(latent, latent), mode="bicubic").clamp(min=0)
        for heat in sums.values()
    ]
    everything = torch.stack(merged).mean(0)[:, 0]  # [tokens, latent, latent]
    return everything[positions].mean(0)


def test_daam_is_castorinis(model):
    prompt, noise = model.prompt("a birdhouse and a bird"), model.noise(1)
    settings = {"sampler": "ddim", "steps": 3}
    with (
        model.record(*LAYERS) as full,
        model.record(*LAYERS, branch="cond", reduce=mean_over_calls()) as trace,
    ):
        model.generate(prompt, noise, **settings)
    steps = [
        {name: full[f"{name}@{step}"].tensor.flatten(0, 2) for name in full.names}
        for step in range(3)
    ]
    found = daam(trace, prompt, ["birdhouse", "bird"])
    for heat, positions in zip(found, ([2, 3], [6]), strict=True):
        assert list(prompt.word(heat.word).positions) == positions
        expected = castorini(steps, 16, positions)
        assert expected.std() > 1e-3
        assert (heat.tensor - expected).abs().max() < 1e-5
        assert heat.size == (64, 64)


def test_daam_of_a_picture_that_is_not_square_and_one_of_a_batch(model):
    prompt = model.prompt("a cat")
    with model.record(*LAYERS, branch="cond", reduce=mean_over_calls()) as trace:
        model.generate(prompt, model.noise([1, 2], width=96), sampler="ddim", steps=2)
    with model.record(*LAYERS, branch="cond", reduce=mean_over_calls()) as alone:
        model.generate(prompt, model.noise(2, width=96), sampler="ddim", steps=2, guidance=7.5)
    (second,), (single,) = daam(trace, prompt, ["cat"], row=1), daam(alone, prompt, ["cat"])
    assert second.tensor.shape == (16, 24)
    assert (second.tensor - single.tensor).abs().max() < 1e-4
    assert not any("mid_block" in name for name in trace.names)


# Prompt-to-prompt -----------------------------------------------------------------------------


def aligned(model, base: str, other: str) -> tuple[Tensor, Tensor]:
    return align(model.prompt(base), model.prompt(other))


def test_the_same_prompt_is_aligned_with_itself(model):
    matrix, own = aligned(model, "a cat, on a mat", "a cat, on a mat")
    assert torch.allclose(matrix, torch.eye(77)) and own.eq(0).all()


def test_replaced_words_stand_for_each_other(model):
    matrix, own = aligned(model, "a cat on a mat", "a birdhouse on a mat")  # one token, two tokens
    assert own.eq(0).all()
    assert torch.equal(matrix[2, 2:4], torch.tensor([0.5, 0.5]))
    for base, other in ((1, 1), (3, 4), (5, 6), (6, 7)):  # a, on, mat, end
        assert matrix[base, other] == 1
    assert torch.allclose(matrix.sum(1), torch.ones(77))
    back, _ = aligned(model, "a birdhouse on a mat", "a cat on a mat")
    assert torch.equal(back[2:4, 2], torch.ones(2))


def test_added_words_keep_their_own_attention_and_words_left_out_lose_theirs(model):
    matrix, own = aligned(model, "a cat on a mat", "a red cat on a mat")
    assert own.nonzero().flatten().tolist() == [2]
    assert matrix[:, 2].eq(0).all() and matrix[2, 3] == 1
    back, none = aligned(model, "a red cat on a mat", "a cat on a mat")
    assert back[2].eq(0).all() and none.eq(0).all()


def test_places_laid_over_places():
    assert torch.equal(spread(3, 3), torch.eye(3))
    assert torch.allclose(spread(2, 3), torch.tensor([[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]))
    assert torch.allclose(spread(5, 2).sum(1), torch.ones(5))


def test_an_edit_towards_the_same_prompt_changes_nothing(model):
    prompts, noise = [model.prompt("a cat on a mat")] * 2, model.noise([7, 7])
    settings = {"sampler": "ddim", "steps": 4}
    plain = model.generate(prompts, noise, **settings).latent
    with prompt_to_prompt(model, prompts, 4, cross=1.0, self_attention=1.0):
        edited = model.generate(prompts, noise, **settings).latent
    assert (edited - plain).abs().max() < 1e-3
    assert (edited[0] - edited[1]).abs().max() < 1e-4


def test_the_second_picture_follows_the_first_as_long_as_asked(model):
    prompts = [model.prompt("a cat on a mat"), model.prompt("a red dog on a mat")]
    noise, settings = model.noise([7, 7]), {"sampler": "ddim", "steps": 4}
    plain = model.generate(prompts, noise, **settings).latent
    with (
        prompt_to_prompt(model, prompts, 4, cross=0.5, self_attention=0.25),
        model.record(CROSS, "unet.*.attn1.probs", branch="cond") as trace,
    ):
        edited = model.generate(prompts, noise, **settings).latent
    assert (edited[0] - plain[0]).abs().max() < 1e-3  # the first picture is left alone
    assert (edited[1] - plain[1]).abs().max() > 1e-2
    matrix, own = align(*prompts)
    for name in model.tensors(CROSS):
        first, second = trace[name.name].tensor.unbind(1)  # [steps, heads, places, tokens]
        followed = first @ matrix + second * own
        distance = (second - followed).abs().amax(dim=(1, 2, 3))
        assert distance[:2].max() < 1e-5 < 1e-3 < distance[2:].min()
    small = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.probs"
    large = "unet.up_blocks.2.attentions.0.transformer_blocks.0.attn1.probs"
    for name, follows in ((small, True), (large, False)):
        first, second = trace[name].tensor.unbind(1)
        assert torch.equal(first[0], second[0]) is follows
        assert not torch.equal(first[1], second[1])


def test_prompt_to_prompt_of_another_batch_is_refused(model):
    prompts = [model.prompt("a cat"), model.prompt("a dog")]
    with (
        pytest.raises(ScratchError, match="second prompt"),
        prompt_to_prompt(model, prompts[:1], 4),
    ):
        pass
    with (
        pytest.raises(
            ScratchError, match="1 pictures were to follow the first, and the batch has 0"
        ),
        prompt_to_prompt(model, prompts, 4),
    ):
        model.generate(prompts[0], model.noise(7), steps=4)


# Re-weighting, h-space, lens ------------------------------------------------------------------


def test_a_word_without_attention_has_no_effect_through_it(model):
    """With the word's attention at zero, its values do not matter."""
    prompt, noise = model.prompt("a cat on a mat"), model.noise(1)
    settings = {"sampler": "ddim", "steps": 2}

    def other_cat(v: Tensor, at: At) -> Tensor:
        return torch.cat([v[:, :, :2], v[:, :, 2:3] + 1.0, v[:, :, 3:]], dim=2)

    with model.edit(CROSS, reweight({"cat": 0.0})):
        without = model.generate(prompt, noise, **settings).latent
        with model.edit("unet.*.attn2.v", other_cat, branch="cond"):
            same = model.generate(prompt, noise, **settings).latent
    with model.edit("unet.*.attn2.v", other_cat, branch="cond"):
        felt = model.generate(prompt, noise, **settings).latent
    assert (same - without).abs().max() < 1e-5
    assert (felt - without).abs().max() > 1e-3


def test_a_direction_in_h_space(model):
    """Shifted by the whole way from one run to another at every step, h is the other run's h at the
    first step, where both runs have seen the same sample."""
    noise, settings = model.noise(1), {"sampler": "ddim", "steps": 3}
    traces = []
    for text in ("a cat", "a dog"):
        with model.record("unet.h") as trace:
            model.generate(text, noise, **settings)
        traces.append(trace)
    cat, dog = traces
    with model.edit("unet.h", shift(dog, cat)), model.record("unet.h") as shifted:
        latent = model.generate("a cat", noise, **settings).latent
    first = shifted["unet.h@0:cond"].tensor
    assert torch.allclose(first, dog["unet.h@0:cond"].tensor, atol=1e-5)
    assert not torch.allclose(first, cat["unet.h@0:cond"].tensor, atol=1e-2)
    with model.edit("unet.h", shift(dog, cat, scale=0.0)):
        same = model.generate("a cat", noise, **settings).latent
    plain = model.generate("a cat", noise, **settings).latent
    assert torch.equal(same, plain) and not torch.equal(latent, plain)


def test_the_lens_on_the_last_layer_is_the_prompt_and_on_others_is_clip_skip(model):
    text, layers = "a cat on a mat", TINY.text.num_hidden_layers
    for layer in range(layers):
        prompt = lens(model, text, layer)
        expected = model.prompt(text, clip_skip=layers - layer)
        assert torch.equal(prompt.context, expected.context)
        assert prompt.by_hand
    with pytest.raises(ScratchError, match="no tensor is named"):
        lens(model, text, layers)


# DDIM inversion -------------------------------------------------------------------------------


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal to noise in dB, for pictures of about -1..1."""
    return 10 * math.log10(4 / float((a - b).square().mean()))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_inverted_and_sampled_again_a_picture_comes_back(kind):
    schedule = Schedule(TINY.schedule.__class__(prediction_type=kind))
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for network in (gaussian(schedule, 0.5, 0.2), lively(schedule)):
        errors = []
        for ladder in (schedule.ladder(25), schedule.ladder(100)):
            picture = list(SAMPLERS["ddim"].run(network, start, ladder, torch.empty))[-1]
            up = list(ddim_inverse(network, picture.x_next, ladder, torch.empty))
            noise = up[-1].x_next
            again = list(SAMPLERS["ddim"].run(network, noise, ladder, torch.empty))[-1]
            errors.append(psnr(again.x_next, picture.x_next))
        assert errors[0] > 20 and errors[1] > errors[0] + 6


def test_inverting_a_picture_of_the_model(model):
    prompt, settings = model.prompt("a cat"), {"steps": 50}
    picture = model.generate(prompt, model.noise(1), guidance=1.0, sampler="ddim", **settings)
    noise = invert(model, prompt, picture, **settings)
    assert noise.t == 999 and noise.seeds == picture.seeds
    again = model.generate(prompt, noise, guidance=1.0, sampler="ddim", **settings)
    scale = float(picture.latent.abs().max())
    assert psnr(again.latent / scale, picture.latent / scale) > 20
