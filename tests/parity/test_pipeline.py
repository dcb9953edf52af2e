"""The whole way from prompt to picture, against diffusers' pipeline on the same folder."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)

import sd_scratch as sd
from sd_scratch.checkpoints import save_folder
from tests.tiny import tiny_components

PROMPT, NEGATIVE = "a photograph of an astronaut riding a horse", "a blurry “dog”"
SCHEDULERS = {
    "pndm": PNDMScheduler,
    "ddim": DDIMScheduler,
    "lms": LMSDiscreteScheduler,
    "euler": EulerDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
}


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / request.param
    save_folder(tiny_components(prediction_type=request.param), path)
    return path


@pytest.fixture(scope="module")
def theirs(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_latents_and_picture(folder, theirs, sampler):
    # diffusers mixes raw predictions in PNDM; the option asks for the same.
    options = {"mix": "output"} if sampler == "pndm" else {}
    ours = sd.load(str(folder))
    noise = ours.noise(seed=3, width=72, height=64)
    image = ours.generate(
        ours.prompt(PROMPT), noise, negative=NEGATIVE, sampler=sampler, steps=8, **options
    )

    theirs.scheduler = SCHEDULERS[sampler].from_config(theirs.scheduler.config)
    settings = {"num_inference_steps": 8, "guidance_scale": ours.config.guidance}
    settings |= {"width": 72, "height": 64, "latents": noise.latent.clone()}
    negative = ours.prompt(NEGATIVE).context  # transformers leaves typographic quotes as they are
    prompt = ours.prompt(PROMPT).context
    settings |= {"prompt_embeds": prompt, "negative_prompt_embeds": negative}
    latent = theirs(**settings, output_type="latent").images
    assert (image.latent - latent).abs().max() < 1e-4 * latent.abs().max()

    picture = theirs(**settings, output_type="np").images[0]
    expected = torch.from_numpy(picture).permute(2, 0, 1)
    assert (image.decode()[0] / 2 + 0.5).clamp(0, 1).sub(expected).abs().max() < 1e-3


def test_prompts_are_read_alike(folder, theirs):
    ours = sd.load(str(folder))
    expected, _ = theirs.encode_prompt(PROMPT, "cpu", 1, False)
    assert (ours.prompt(PROMPT).context - expected).abs().max() < 1e-5
