"""The shipped `scenes` model in diffusers: the folder loads, and gives the same pictures."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

import sd_scratch as sd
from sd_scratch.checkpoints.shipped import shipped_model
from sd_scratch.scenes import oracle

PROMPTS = ("a large red star on a blue background", "a medium green circle on a white background")


@pytest.fixture(scope="module")
def folder():
    path = shipped_model("scenes")
    assert path is not None, "weights/scenes is missing"
    return path


@pytest.fixture(scope="module")
def theirs(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(
    "prompt", [*PROMPTS, "A photo of the tiny violet heart, black background!"]
)
def test_token_ids_are_the_same(theirs, prompt):
    ours = sd.load("scenes").tokenizer
    ids = theirs.tokenizer(prompt, padding="max_length", truncation=True).input_ids
    assert list(ours.encode(prompt).ids) == ids


def test_its_settings_come_along(theirs):
    model = sd.load("scenes")
    assert theirs.scheduler.config.prediction_type == "v_prediction"
    assert type(theirs.scheduler).__name__ == "DDIMScheduler"
    assert theirs.vae.config.scaling_factor == model.config.vae.scaling_factor
    assert theirs.unet.config.sample_size * 8 == model.config.sample_size == 64


def test_the_same_pictures(theirs):
    model = sd.load("scenes")
    noise = model.noise([1, 2])
    ours = model.generate([model.prompt(p) for p in PROMPTS], noise, sampler="ddim", steps=25)
    same = theirs(
        list(PROMPTS),
        num_inference_steps=25,
        guidance_scale=model.config.guidance,
        latents=noise.latent.clone(),
        output_type="pt",
    ).images
    difference = (ours.decode().clamp(-1, 1) + 1) / 2 - same
    assert difference.abs().max() < 2e-3


def test_the_oracle_reads_what_was_asked_for():
    """A golden check of the shipped weights: four prompts, and all is as they say."""
    model = sd.load("scenes")
    asked = [("star", "red", "blue"), ("circle", "green", "white")]
    asked += [("square", "yellow", "black"), ("heart", "white", "red")]
    prompts = [model.prompt(f"a large {c} {s} on a {b} background") for s, c, b in asked]
    images = model.generate(prompts, model.noise([11, 12, 13, 14])).decode()
    readings = oracle.read(images)
    assert [reading.background for reading in readings] == [b for _, _, b in asked]
    right = [
        [(read.shape, read.colour) for read in reading.objects] == [(s, c)]
        for reading, (s, c, _) in zip(readings, asked, strict=True)
    ]
    assert sum(right) == len(asked)
