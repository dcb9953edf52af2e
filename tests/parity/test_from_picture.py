"""Runs that begin with a picture, against diffusers' pipelines on the same random weights."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
)

from sd_scratch.checkpoints import save_folder
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from tests.tiny import tiny_components

PROMPT, NEGATIVE = "a photograph of an astronaut riding a horse", "a blurry dog"
SEED, STEPS, SIDE = 3, 10, 32
SCHEDULERS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "pndm": PNDMScheduler,
}


@pytest.fixture(scope="module")
def components():
    return tiny_components()


@pytest.fixture(scope="module")
def ours(components):
    return StableDiffusion(components)


@pytest.fixture(scope="module")
def folder(components, tmp_path_factory):
    path = tmp_path_factory.mktemp("from-picture") / "model"
    save_folder(components, path)
    return path


def pipeline(kind, folder):
    pipe = kind.from_pretrained(folder, safety_checker=None, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def img2img(folder):
    return pipeline(StableDiffusionImg2ImgPipeline, folder)


def texts(model):
    return {
        "prompt_embeds": model.prompt(PROMPT).context,
        "negative_prompt_embeds": model.prompt(NEGATIVE).context,
        "guidance_scale": model.config.guidance,
        "num_inference_steps": STEPS,
        "generator": torch.Generator().manual_seed(SEED),
        "output_type": "latent",
    }


def picture(model):
    """A latent that looks like nothing that noise would make."""
    cells = SIDE // model.config.vae.downscale
    latent = torch.linspace(-1.5, 1.5, 4 * cells * cells).reshape(1, 4, cells, cells)
    return model.noise(SEED, SIDE, SIDE).with_latent(latent, t=0)


def close(latent, expected):
    return (latent - expected).abs().max() <= 1e-5 * expected.abs().max()


def align(pipe):
    """diffusers' PNDM lists its second timestep twice, because its first step calls the network twice;
    its image to image counts that as a step, tells the network a timestep that is not there, and takes
    the first step's two calls at different levels. Here it gets the list that PNDM means."""
    whole = pipe.scheduler.timesteps
    steps = torch.cat([whole[:1], whole[2:]])

    def get_timesteps(count, strength, device):
        tail = steps[count - min(int(count * strength), count) :]
        return torch.cat([tail[:2], tail[1:]]), len(tail)

    pipe.get_timesteps = get_timesteps


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
@pytest.mark.parametrize(
    ("sampler", "spacing"),
    [  # the diffusers class of DPM++ 2M has leading timesteps of its own
        ("ddim", "leading"),
        ("pndm", "leading"),
        ("euler", "leading"),
        ("euler", "trailing"),
        ("dpmpp_2m", "trailing"),
    ],
)
def test_image_to_image(ours, img2img, sampler, strength, spacing):
    begin = {"sampler": sampler, "steps": STEPS, "schedule": spacing}
    start = ours.begin(picture(ours), strength, **begin)
    options = {"mix": "output"} if sampler == "pndm" else {}
    image = ours.generate(PROMPT, start, negative=NEGATIVE, **begin, **options)

    config = img2img.scheduler.config
    pipe = StableDiffusionImg2ImgPipeline(**img2img.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = SCHEDULERS[sampler].from_config(config, timestep_spacing=spacing)
    if sampler == "pndm":
        pipe.scheduler.set_timesteps(STEPS)
        align(pipe)
    expected = pipe(image=picture(ours).latent, strength=strength, **texts(ours)).images
    assert close(image.latent, expected)
