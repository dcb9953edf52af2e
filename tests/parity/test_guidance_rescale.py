"""Guidance's contrast taken back, for all predictions and with zero terminal SNR, as diffusers does it."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import sd_scratch as sd
from sd_scratch.checkpoints import save_folder
from sd_scratch.diffusion.guidance import guide, rescale
from sd_scratch.errors import UsageError
from tests.tiny import tiny_components, tiny_model

ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
V, X0, EPS = ({"prediction_type": kind} for kind in ("v_prediction", "sample", "epsilon"))


@pytest.mark.parametrize("schedule", [EPS, V, X0, V | ZERO], ids=["eps", "v", "x0", "zero-snr"])
def test_like_diffusers(schedule: dict[str, Any], tmp_path: Path) -> None:
    save_folder(tiny_components(**schedule), tmp_path / "model")
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(
        tmp_path / "model", safety_checker=None
    )
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = diffusers.EulerDiscreteScheduler.from_config(theirs.scheduler.config)
    ours = sd.load(str(tmp_path / "model"))
    noise, prompt, negative = ours.noise(5), ours.prompt("a cat"), ours.prompt("a dog")
    settings: dict[str, Any] = {"guidance_rescale": 0.7, "sampler": "euler", "steps": 5}
    image = ours.generate(prompt, noise, negative=negative, guidance=9.0, **settings)
    latent = theirs(
        prompt_embeds=prompt.context,
        negative_prompt_embeds=negative.context,
        latents=noise.latent.clone(),
        num_inference_steps=5,
        guidance_scale=9.0,
        guidance_rescale=0.7,
        output_type="latent",
    ).images
    # float32 has three digits less where the first sigma is 4096.
    bound = 1e-3 if "rescale_betas_zero_snr" in schedule else 1e-4
    assert float((image.latent - latent).abs().max()) <= bound * float(latent.abs().max())
    plain = ours.generate(prompt, noise, negative=negative, guidance=9.0, sampler="euler", steps=5)
    assert float((image.latent - plain.latent).abs().max()) > 0.01


def test_the_deviation_is_that_of_the_conditional_prediction() -> None:
    generator = torch.Generator().manual_seed(0)
    uncond, cond = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    guided = guide(uncond, cond, 12.0)
    whole = rescale(guided, cond, 1.0)
    assert torch.allclose(whole.std((1, 2, 3)), cond.std((1, 2, 3)))
    assert torch.equal(rescale(guided, cond, 0.0), guided)
    alone = rescale(guided[1:2], cond[1:2], 0.7)
    assert torch.allclose(rescale(guided, cond, 0.7)[1:2], alone, atol=1e-6)


@pytest.mark.parametrize("amount", [-0.1, 1.1, float("nan")])
def test_an_amount_out_of_range_is_refused(amount: float) -> None:
    model = tiny_model()
    with pytest.raises(UsageError, match="guidance.rescale"):
        model.generate("a cat", model.noise(0), steps=1, guidance_rescale=amount)


def test_a_recipe_keeps_it(tmp_path: Path) -> None:
    from sd_scratch.dialects.a1111 import recipe_from_parameters
    from sd_scratch.pipeline.recipe import Recipe, recipe_from_json

    recipe = Recipe("a cat", steps=2, guidance=9.0, guidance_rescale=0.7)
    assert recipe_from_json(recipe.to_json(), "x").guidance_rescale == 0.7
    assert recipe_from_parameters(recipe.to_parameters(), "x")[0].guidance_rescale == 0.7
    model = tiny_model()
    (made,) = model.run(Recipe("a cat", steps=2, seed=3, guidance=9.0, guidance_rescale=0.7))
    direct = model.generate(
        "a cat", model.noise(3), steps=2, guidance=9.0, guidance_rescale=0.7, negative=""
    )
    assert torch.equal(made.latents.latent, direct.latent)
    with model.record("sampler.x_next") as trace:
        model.generate("a cat", model.noise(3), steps=2, guidance=9.0, guidance_rescale=0.7)
    trace.save(tmp_path / "trace")
    assert torch.equal(model.replay(tmp_path / "trace").latent, direct.latent)
