"""The experiments' definitions, each computed a second time in a few independent lines."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from sd_scratch.diffusion.guidance import guide
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.mapping import (
    Rendering,
    adjust,
    difference,
    directional_derivative,
    gradient_maps,
    perturbation_maps,
    word_derivatives,
)
from tests.tiny import tiny_model

SETTINGS = {"sampler": "ddim", "steps": 3, "guidance": 3.0}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def prompt(model):
    return model.prompt("a red circle")


@pytest.fixture(scope="module")
def rendering(model):
    return Rendering(model, model.noise(7, 32, 40), SETTINGS)


def picture(model, prompt, word, factor, sampler="ddim"):
    """The definition of an adjustment, spelled out: a word's rows of the context times a factor."""
    positions = [1 + i for i in prompt.word(word).tokens]
    context = prompt.context.clone()
    context[0, positions] *= factor
    settings = {**SETTINGS, "sampler": sampler}
    made = model.generate(prompt.with_context(context), model.noise(7, 32, 40), **settings)
    return made


def as_array(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))


def test_a_rendering_is_the_picture_that_generate_makes(model, prompt, rendering):
    (pixels,) = rendering.pixels([prompt])
    (image,) = model.generate(prompt, model.noise(7, 32, 40), **SETTINGS).to_pil()
    assert torch.equal(pixels.permute(1, 2, 0), as_array(image))
    assert rendering.size == image.size == (32, 40)


@pytest.mark.parametrize("sampler", ["ddim", "pndm", "lms"])
def test_adjust_scales_a_words_vectors_and_keeps_the_noise(model, prompt, rendering, sampler):
    strip = adjust(
        rendering.with_settings(sampler=sampler), prompt, prompt.word("circle"), [-1.0, 0.0, 0.5]
    )
    for pixels, factor in zip(strip, [0.0, 1.0, 1.5], strict=True):
        (image,) = picture(model, prompt, "circle", factor, sampler).to_pil()
        close = (pixels.permute(1, 2, 0).int() - as_array(image).int()).abs()
        assert close.max() <= 1  # a batch rounds a little differently
    assert not torch.equal(strip[0], strip[2])


def test_from_the_empty_prompt_minus_one_puts_its_vectors_there(model, prompt, rendering):
    word = prompt.word("red")
    context = prompt.context.clone()
    context[:, list(word.positions)] = prompt.empty[:, list(word.positions)]
    expected = rendering.pixels([prompt.with_context(context)])
    strip = adjust(rendering, prompt, word, [-1.0], origin="empty")
    assert torch.equal(strip, expected)


def test_a_list_of_lambdas_is_not_empty(rendering, prompt):
    with pytest.raises(ScratchError, match="list of lambdas is empty") as error:
        adjust(rendering, prompt, prompt.word("red"), [])
    assert isinstance(error.value, UsageError)


def test_the_difference_is_pillows_in_grey():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(0, 256, (2, 3, 61, 67), generator=generator, dtype=torch.uint8)
    images = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in (first, second)]
    expected = as_array(ImageChops.difference(*images).convert("L"))
    assert torch.equal(difference(first, second), expected)


def test_a_perturbation_map_is_the_sources(model, prompt, rendering):
    original, maps = perturbation_maps(rendering, prompt, prompt.words)
    images = [picture(model, prompt, "red", factor).to_pil()[0] for factor in (1.0, 1.15)]
    expected = as_array(ImageChops.difference(*images).convert("L")).float()
    assert [m.word for m in maps] == ["a", "red", "circle"]
    assert (maps[1].tensor - expected).abs().max() <= 2
    assert expected.max() > 10
    assert torch.equal(original.permute(1, 2, 0), as_array(images[0]))
    assert maps[1].size == (32, 40) and maps[1].tensor.shape == (40, 32)


def test_a_forward_difference_is_the_sources(model, prompt, rendering):
    word = prompt.word("red")
    _, maps = gradient_maps(rendering, prompt, [word], method="forward")
    before, after = (
        picture(model, prompt, "red", factor).decode() / 2 + 0.5 for factor in (1.0, 1.01)
    )
    change = 0.01 * prompt.context[0, list(word.positions)]
    expected = ((after - before) / change.norm())[0].square().sum(dim=0).sqrt()
    assert (maps[0].tensor - expected).abs().max() < 1e-2 * expected.max()


@pytest.mark.parametrize("sampler", ["ddim", "pndm", "lms"])
@pytest.mark.parametrize("origin", ["zero", "empty"])
def test_the_central_difference_comes_near_the_exact_derivative(rendering, prompt, sampler, origin):
    words = [prompt.word("red"), prompt.word("circle")]
    rendering = rendering.with_settings(sampler=sampler)
    original, exact = word_derivatives(rendering, prompt, words, method="exact", origin=origin)
    same, central = word_derivatives(rendering, prompt, words, method="central", origin=origin)
    forward = word_derivatives(rendering, prompt, words, method="forward", origin=origin)[1]
    assert (original - same).abs().max() < 1e-4
    errors = [float((x - exact).norm() / exact.norm()) for x in (central, forward)]
    assert errors[0] < 1e-2
    assert errors[0] < errors[1] < 0.2


def test_the_derivative_is_autograds_jacobian_on_a_toy():
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    x, direction = torch.randn(2, 5, generator=torch.Generator().manual_seed(2))

    def toy(x):
        return torch.softmax(weight @ torch.tanh(x), dim=0) * x.square().sum()

    value, derivative = directional_derivative(toy, x, direction)
    jacobian = torch.autograd.functional.jacobian(toy, x)
    assert torch.equal(value, toy(x))
    assert (derivative - jacobian @ direction).abs().max() <= 1e-5


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalisation_has_a_derivative_wherever_the_channels_lie(memory_format):
    generator = torch.Generator().manual_seed(1)
    x, direction = (
        torch.randn(2, 8, 3, 4, generator=generator).to(memory_format=memory_format)
        for _ in range(2)
    )
    norm = torch.nn.GroupNorm(4, 8)
    norm.weight.data = torch.randn(8, generator=generator)
    norm.bias.data = torch.randn(8, generator=generator)
    value, derivative = directional_derivative(norm, x, direction)
    assert (value - norm(x)).abs().max() < 1e-5
    _, expected = torch.autograd.functional.jvp(norm, x.contiguous(), direction.contiguous())
    assert (derivative - expected).abs().max() < 1e-5


def test_the_derivative_through_sampler_and_decoder_is_what_backpropagation_finds(model, prompt):
    """DDIM written out with gradients: u . (J d) from the front, and (J^T u) . d from behind."""
    word, noise = prompt.word("red"), model.noise(3, 16, 16)
    rendering = Rendering(model, noise, {"sampler": "ddim", "steps": 2, "guidance": 3.0})
    _, (derivative,) = word_derivatives(rendering, prompt, [word], method="exact")

    context = prompt.context.clone().requires_grad_()
    steps = list(model.steps(prompt, noise, sampler="ddim", steps=2, guidance=3.0))
    bars = [step.alpha_bar for step in steps] + [model.schedule.final_alpha_bar]
    x = noise.latent
    for step, here, there in zip(steps, bars, bars[1:], strict=False):
        t = torch.tensor([float(step.t)])
        eps = guide(model.unet(x, t, prompt.empty), model.unet(x, t, context), 3.0)
        x0 = (x - (1 - here) ** 0.5 * eps) / here**0.5
        x = there**0.5 * x0 + (1 - there) ** 0.5 * eps
    colours = model.vae.decode(model.vae.from_latent(x)) / 2 + 0.5

    u = torch.randn(colours.shape, generator=torch.Generator().manual_seed(4))
    (gradient,) = torch.autograd.grad((colours * u).sum(), context)
    positions = list(word.positions)
    direction = prompt.context[0, positions] / prompt.context[0, positions].norm()
    behind = float((gradient[0, positions] * direction).sum())
    front = float((derivative * u[0]).sum())
    scale = float(derivative.norm() * u.norm())
    assert abs(front - behind) <= 1e-5 * scale
    assert abs(behind) > 1e-4 * scale


@pytest.mark.parametrize("lost", ["guidance 0", "inference mode"])
def test_a_derivative_that_got_lost_is_no_zero(model, prompt, rendering, lost):
    if lost == "guidance 0":
        with pytest.raises(ScratchError, match="no derivative arrived"):
            word_derivatives(
                rendering.with_settings(guidance=0.0), prompt, prompt.words, method="exact"
            )
        return
    with torch.inference_mode(), pytest.raises(ScratchError, match="no derivative arrived"):
        directional_derivative(lambda x: x * 2, torch.ones(2), torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_for_differences(prompt, dtype):
    model = tiny_model()
    model.unet.to(dtype)
    rendering = Rendering(model, model.noise(1, 16, 16), SETTINGS)
    for make in (
        lambda: perturbation_maps(rendering, prompt, prompt.words),
        lambda: gradient_maps(rendering, prompt, prompt.words, method="central"),
        lambda: gradient_maps(rendering, prompt, prompt.words, method="forward"),
    ):
        with pytest.raises(ScratchError, match="drown in the rounding") as error:
            make()
        assert isinstance(error.value, UsageError)


def test_other_mistakes_are_told(model, prompt, rendering):
    with pytest.raises(ScratchError, match="unknown method 'backward'"):
        gradient_maps(rendering, prompt, prompt.words, method="backward")
    with pytest.raises(ScratchError, match="other than 0"):
        gradient_maps(rendering, prompt, prompt.words, amount=0.0)
    with pytest.raises(ScratchError, match="one noise, not from 2"):
        Rendering(model, model.noise([1, 2]))
    empty = model.prompt("a").with_context(prompt.empty * 0)
    with pytest.raises(ScratchError, match="at the origin"):
        gradient_maps(rendering, empty, empty.words)
