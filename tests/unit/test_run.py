"""`model.run(recipe)`: all that the command line does, from Python; and the loop that models share."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sd_scratch as sd
from sd_scratch.diffusion.samplers import Step
from sd_scratch.errors import UsageError
from sd_scratch.pipeline.adapters import LoraUse
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.stop import Stop

SMALL = Recipe("a red circle", seed=7, steps=3, width=32, height=32)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> sd.StableDiffusion:
    return sd.load(tiny_folder, device="cpu")


def test_a_recipe_becomes_its_pictures(model: sd.StableDiffusion) -> None:
    batches = list(model.run(SMALL, count=3, batch_size=2))
    assert [len(made.recipes) for made in batches] == [2, 1]
    recipes = [recipe for made in batches for recipe in made.recipes]
    assert [recipe.seed for recipe in recipes] == [7, 8, 9]
    one = model.generate("a red circle", model.noise(8, 32, 32), negative="", steps=3)
    again = torch.cat([made.latents.latent for made in batches])
    assert torch.allclose(again[1:2], one.latent, atol=1e-4)


def test_what_comes_back_is_complete_and_makes_it_again(model: sd.StableDiffusion) -> None:
    (made,) = model.run(Recipe("a red circle", width=32, height=32, steps=2))
    recipe = made.recipes[0]
    assert None not in (recipe.seed, recipe.sampler, recipe.guidance, recipe.dtype, recipe.rng)
    (again,) = model.run(recipe)
    assert torch.equal(again.latents.latent, made.latents.latent)


def test_a_text_is_a_recipe(model: sd.StableDiffusion) -> None:
    (made,) = model.run("a red circle")
    assert made.recipes[0].prompt == "a red circle"
    assert made.to_pil()[0].size == (model.config.sample_size,) * 2


def test_every_step_is_told(model: sd.StableDiffusion) -> None:
    steps = []
    (made,) = model.run(SMALL, on_step=steps.append)
    assert [step.index for step in steps] == [0, 1, 2]
    assert torch.equal(steps[-1].x_next, made.latents.latent)


def test_a_run_ends_where_it_is_asked_to(model: sd.StableDiffusion) -> None:
    stop, seen = Stop(), []

    def after(step: Step) -> None:
        seen.append(step.index)
        stop.asked = len(seen) == 5  # the second picture's second step

    batches = list(model.run(SMALL, count=4, on_step=after, stop=stop))
    assert len(batches) == 1 and seen == [0, 1, 2, 0, 1]


def test_the_last_step_ends_with_its_picture(model: sd.StableDiffusion) -> None:
    stop = Stop()

    def after(step: Step) -> None:
        stop.asked = step.index == 2

    assert len(list(model.run(SMALL, count=4, on_step=after, stop=stop))) == 1


def test_a_picture_to_begin_with(model: sd.StableDiffusion) -> None:
    picture = Image.fromarray(np.full((40, 48, 3), 200, np.uint8))
    steps = []
    recipe = Recipe("a red circle", seed=1, steps=10, strength=0.5)
    (made,) = model.run(recipe, init_image=picture, on_step=steps.append)
    assert (made.latents.width, made.latents.height) == (48, 40) and len(steps) == 5
    encoded = model.encode(picture)
    (again,) = model.run(recipe, init_image=encoded)
    assert torch.equal(again.latents.latent, made.latents.latent)
    (kept,) = model.run(recipe.over(strength=0.0), init_image=picture)
    assert torch.equal(kept.latents.latent, encoded.latent)


def test_variations_keep_the_seed(model: sd.StableDiffusion) -> None:
    recipe = SMALL.over(subseed=4, subseed_strength=0.3)
    recipes = [r for made in model.run(recipe, count=2) for r in made.recipes]
    assert [(r.seed, r.subseed) for r in recipes] == [(7, 4), (7, 5)]


@pytest.mark.parametrize(
    ("recipe", "options", "words"),
    [
        (SMALL.over(sampler="eulr"), {}, "did you mean euler"),
        (SMALL.over(schedule="steep"), {}, "steep"),
        (SMALL.over(strength=0.5, init_image="a.png"), {}, "a.png .* init_image"),
        (SMALL.over(dtype="bfloat16"), {}, "computes in bfloat16"),
        (SMALL.over(loras=(LoraUse("style"),)), {}, "loras are style"),
        (SMALL.over(prediction="v_prediction"), {}, "predicts v_prediction"),
        (SMALL.over(zero_snr=True), {}, "zero terminal SNR"),
        (SMALL.over(subseed_strength=2.0), {}, "subseed strength"),
        (SMALL.over(seed=2**64 - 1), {"count": 2}, "smaller seed"),
        (SMALL, {"count": 0}, "count 0"),
        (SMALL, {"batch_size": 1.5}, "batch_size"),
        (SMALL, {"hints": [Image.new("RGB", (32, 32))]}, "hints"),
    ],
)
def test_what_cannot_be_followed_is_said(
    model: sd.StableDiffusion, recipe: Recipe, options: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        next(iter(model.run(recipe, **options)))


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"subseed": 4}, "subseed 4 has no effect"),
        ({"subseed": 4, "subseed_strength": 0.1}, ""),
        ({"ensd": 31337}, "ENSD 31337 has no effect: ddim draws no noise"),
        ({"ensd": 31337, "sampler_options": {"eta": 0.5}}, ""),
        ({"ensd": 31337, "sampler": "euler_a"}, ""),
        ({"guidance": 1.0, "negative_prompt": "fog"}, "the negative prompt has no effect"),
        ({"guidance": 2.0, "negative_prompt": "fog"}, ""),
        ({"guidance": 1.0, "guidance_rescale": 0.7}, "guidance rescale has no effect"),
    ],
)
def test_what_changes_nothing_is_said(
    model: sd.StableDiffusion, caplog, settings: dict[str, object], note: str
) -> None:
    list(model.run(SMALL.over(**{"sampler": "ddim", **settings})))
    assert note in caplog.text
    assert ("has no effect" in caplog.text) == bool(note)


def test_a_model_of_another_hash_is_told(model: sd.StableDiffusion, caplog) -> None:
    list(model.run(SMALL.over(model_hash="0123456789")))
    assert "hash 0123456789" in caplog.text


def test_what_the_network_predicts_is_said_on_loading(tiny_folder: Path) -> None:
    model = sd.load(tiny_folder, device="cpu", prediction="v_prediction", zero_snr=True)
    recipe = SMALL.over(prediction="v_prediction", zero_snr=True, sampler="ddim")
    (made,) = model.run(recipe)
    assert made.latents.latent.isfinite().all()


def test_another_cleaning_of_text_is_another_model(model: sd.StableDiffusion) -> None:
    recipe = SMALL.over(prompt="caf&eacute;", text_cleaning="transformers")
    (made,) = model.run(recipe)
    (usual,) = model.run(recipe.over(text_cleaning="openai"))
    assert not torch.equal(made.latents.latent, usual.latents.latent)
    with (
        model.record("sampler.x0"),
        pytest.raises(UsageError, match="with_text_cleaning"),
    ):
        next(iter(model.run(recipe)))


def test_change_decides_what_a_run_goes_on_from(model: sd.StableDiffusion) -> None:
    noise, kept = model.noise(7, 32, 32), torch.zeros(1)
    steps = list(
        model.steps(
            "a red circle",
            noise,
            steps=3,
            change=lambda step: torch.cat(
                [kept.expand_as(step.x_next[:, :2]), step.x_next[:, 2:]], 1
            ),
        )
    )
    assert all((step.x_next[:, :2] == 0).all() for step in steps)
    assert torch.equal(steps[1].x_t, steps[0].x_next)
