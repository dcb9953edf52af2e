"""Runs that begin with a picture, against diffusers' pipelines on the same random weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
)
from PIL import Image

from sd_scratch.checkpoints import load_components, save_folder
from sd_scratch.config import TINY
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


def canvas_of(model, **options):
    """A picture to paint on whose mask, of whole cells, is white on the right and in one cell more."""
    rng = np.random.default_rng(1)
    drawn = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    white = np.zeros((SIDE, SIDE), dtype=bool)
    white[:, SIDE // 2 :] = True
    cell = model.config.vae.downscale
    white[:cell, :cell] = True
    return drawn, white, model.canvas(drawn, white, **options)


def inpainted(pipe, model, drawn, white, strength, scheduler, **settings):
    own = StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    own.scheduler = scheduler
    return own(
        image=drawn,
        mask_image=Image.fromarray(white),
        width=SIDE,
        height=SIDE,
        strength=strength,
        **texts(model),
        **settings,
    ).images


@pytest.mark.parametrize(
    ("sampler", "spacing", "strength"),
    [
        ("ddim", "leading", 1.0),
        ("ddim", "leading", 0.6),
        ("euler", "trailing", 1.0),
        ("euler", "trailing", 0.6),
        ("dpmpp_2m", "trailing", 0.6),
    ],
)
def test_inpainting_with_a_plain_model(ours, img2img, sampler, spacing, strength):
    way = {"sampler": sampler, "steps": STEPS, "schedule": spacing}
    drawn, white, canvas = canvas_of(ours)
    start = ours.noise(SEED, SIDE, SIDE)  # theirs begins with nothing else at strength 1
    if strength < 1:
        start = ours.begin(start.with_latent(canvas.picture.latent, t=0), strength, **way)
    image = ours.generate(PROMPT, start, negative=NEGATIVE, canvas=canvas, **way)

    config = img2img.scheduler.config
    scheduler = SCHEDULERS[sampler].from_config(config, timestep_spacing=spacing)
    expected = inpainted(
        img2img,
        ours,
        canvas.picture.latent,
        white,
        strength,
        scheduler,
        masked_image_latents=canvas.picture.latent,
    )
    assert close(image.latent, expected)
    kept = canvas.cells.expand_as(image.latent) == 0
    assert torch.equal(image.latent[kept], canvas.picture.latent[kept])


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def nine(request, tmp_path_factory):
    """A model that takes a mask, and diffusers' pipeline for it."""
    components = tiny_components(
        replace(TINY, unet=replace(TINY.unet, in_channels=9)), prediction_type=request.param
    )
    path = tmp_path_factory.mktemp("nine") / "model"
    save_folder(components, path)
    parts = pipeline(StableDiffusionImg2ImgPipeline, path).components
    pipe = StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    return StableDiffusion(components), pipe


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_inpainting_with_a_model_that_takes_the_mask(nine, strength):
    model, pipe = nine
    way = {"sampler": "ddim", "steps": STEPS}
    drawn, white, canvas = canvas_of(model)
    start = model.noise(SEED, SIDE, SIDE)
    if strength < 1:
        start = model.begin(start.with_latent(canvas.picture.latent, t=0), strength, **way)
    image = model.generate(PROMPT, start, negative=NEGATIVE, canvas=canvas, **way)
    expected = inpainted(
        pipe,
        model,
        canvas.picture.latent,
        white,
        strength,
        DDIMScheduler.from_config(pipe.scheduler.config),
        masked_image_latents=canvas.told[:, 1:],
    )
    assert close(image.latent, expected)


def test_what_the_model_is_told_is_the_mask_and_the_picture_without_its_hole(nine):
    model, pipe = nine
    drawn, white, canvas = canvas_of(model)
    seen = pipe.image_processor.preprocess(drawn)
    mask = pipe.mask_processor.preprocess(Image.fromarray(white))
    latent = pipe.vae.encode(seen * (mask < 0.5)).latent_dist.mode()
    assert close(canvas.told[:, 1:], pipe.vae.config.scaling_factor * latent)
    cells = torch.nn.functional.interpolate(mask, size=canvas.told.shape[2:])
    assert torch.equal(canvas.told[:, :1], cells)


@pytest.mark.parametrize("guidance", [(7.5, 1.5), (3.0, 1.0), (1.5, 2.5)])
def test_instruct_pix2pix(tmp_path, guidance):
    components = tiny_components(replace(TINY, unet=replace(TINY.unet, in_channels=8)))
    save_folder(components, tmp_path / "model")
    model = StableDiffusion(load_components(tmp_path / "model"))
    scale, picture_scale = guidance
    rng = np.random.default_rng(1)
    drawn = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    canvas = model.canvas(drawn, guidance=picture_scale)
    image = model.generate(
        PROMPT,
        model.noise(SEED, SIDE, SIDE),
        negative=NEGATIVE,
        canvas=canvas,
        guidance=scale,
        sampler="ddim",
        steps=STEPS,
    )
    pipe = pipeline(StableDiffusionInstructPix2PixPipeline, tmp_path / "model")
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    settings = texts(model) | {"guidance_scale": scale, "image_guidance_scale": picture_scale}
    assert close(image.latent, pipe(image=drawn, **settings).images)
