"""Runs that begin with a picture, or have adapters, at SD 1.5's full size, against diffusers' pipelines on the same
random weights.

256x256 pixels, two calls of the U-Net a run, one thread. The four kinds of U-Net share all weights but their first
convolution's. Prints the largest differences (``scripts/test -s -k full_size_pictures``). Takes 6 GB of memory, and
skips where they are not there.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
)
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from sd_scratch.checkpoints import Components
from sd_scratch.config import SD15, ControlNetConfig
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.networks.controlnet import ControlNet
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.networks.unet import UNet
from sd_scratch.pipeline.control import Control
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.text.tokenizer import Tokenizer
from tests.lively import liven
from tests.parity.references import reference_unet, reference_vae
from tests.parity.test_controlnet import reference_controlnet
from tests.parity.test_full_size import MEMORY, available_memory, report

PROMPT, NEGATIVE = "a photograph of an astronaut riding a horse", "a blurry dog"
SEED, SIDE, BOUND = 3, 256, 1e-4
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
DRAWN = Image.fromarray(
    np.random.default_rng(1).integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
WHITE = np.zeros((SIDE, SIDE), dtype=bool)  # of whole cells: the right half, and one cell more
WHITE[:, SIDE // 2 :] = True
WHITE[:8, :8] = True

pytestmark = pytest.mark.skipif(
    available_memory() < MEMORY, reason="not enough memory for a model of full size"
)


def filled(network: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


class Pair:
    """Our model and diffusers' networks on one set of weights, convolutions in the order in which ours are loaded."""

    def __init__(self) -> None:
        self.unet = _as_loaded(liven(reference_unet(SD15.unet), 1))
        self.their_vae = filled(
            reference_vae(SD15.vae), _as_loaded(liven(reference_vae(SD15.vae), 2))
        )
        with torch.device("meta"):
            vae, text = Autoencoder(SD15.vae), TextEncoder(SD15.text)
        self.vae, self.text = filled(vae, self.their_vae.state_dict()), liven(text, 3)

    def kind(
        self, channels: int, pipeline: type, scheduler: object, **more: nn.Module
    ) -> tuple[StableDiffusion, object]:
        """Our model with so many channels, and that pipeline of diffusers."""
        config = replace(SD15, unet=replace(SD15.unet, in_channels=channels))
        state = dict(self.unet)
        if channels != SD15.unet.in_channels:
            generator = torch.Generator().manual_seed(channels)
            first = torch.randn(
                state["conv_in.weight"].shape[0], channels, 3, 3, generator=generator
            )
            state["conv_in.weight"] = 0.8 * first / (9 * channels) ** 0.5
        with torch.device("meta"):
            unet = UNet(config.unet)
        parts = Components(
            config, self.text, self.vae, filled(unet, state), Tokenizer.clip(77), "full size"
        )
        pipe = pipeline(
            vae=self.their_vae,
            text_encoder=None,
            tokenizer=None,
            unet=filled(reference_unet(config.unet), state),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **more,
        )
        pipe.set_progress_bar_config(disable=True)
        return StableDiffusion(parts), pipe


def _as_loaded(network: nn.Module) -> dict[str, torch.Tensor]:
    return {
        key: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
        for key, value in network.state_dict().items()
    }


@pytest.fixture(scope="module")
def pair(full_size_turn):
    torch.set_num_threads(1)
    return Pair()


def texts(model: StableDiffusion, steps: int) -> dict[str, object]:
    return {
        "prompt_embeds": model.prompt(PROMPT).context,
        "negative_prompt_embeds": model.prompt(NEGATIVE).context,
        "guidance_scale": 7.5,
        "num_inference_steps": steps,
        "generator": torch.Generator().manual_seed(SEED),
        "output_type": "latent",
    }


def made(model, noise, **settings):
    return model.generate(PROMPT, noise, negative=NEGATIVE, guidance=7.5, **settings).latent


@torch.no_grad()
def test_image_to_image(pair):
    scheduler = EulerDiscreteScheduler(
        **{k: v for k, v in SCHEDULE.items() if k not in ("clip_sample", "set_alpha_to_one")},
        timestep_spacing="trailing",
    )
    model, pipe = pair.kind(4, StableDiffusionImg2ImgPipeline, scheduler)
    way = {"sampler": "euler", "steps": 3, "schedule": "trailing"}
    picture = replace(model.encode(DRAWN), seeds=(SEED,))
    expected = pipe(image=picture.latent, strength=0.7, **texts(model, 3)).images
    report("img2img", made(model, model.begin(picture, 0.7, **way), **way), expected, BOUND)


@torch.no_grad()
@pytest.mark.parametrize("channels", [4, 9])
def test_inpainting(pair, channels):
    model, pipe = pair.kind(channels, StableDiffusionInpaintPipeline, DDIMScheduler(**SCHEDULE))
    canvas = model.canvas(DRAWN, WHITE)
    latent = canvas.picture.latent
    if canvas.told is not None:
        seen = pipe.image_processor.preprocess(DRAWN) * torch.from_numpy(~WHITE)
        hole = pipe.vae.config.scaling_factor * pipe.vae.encode(seen).latent_dist.mode()
        report("the hole", canvas.told[:, 1:], hole, BOUND)
    expected = pipe(
        image=latent,
        mask_image=Image.fromarray(WHITE),
        masked_image_latents=latent if canvas.told is None else canvas.told[:, 1:],
        width=SIDE,
        height=SIDE,
        strength=1.0,
        **texts(model, 2),
    ).images
    own = made(model, model.noise(SEED, SIDE, SIDE), canvas=canvas, sampler="ddim", steps=2)
    report(f"inpaint {channels}", own, expected, BOUND)


@torch.no_grad()
def test_instruct_pix2pix(pair):
    scheduler = DDIMScheduler(**SCHEDULE)
    model, pipe = pair.kind(8, StableDiffusionInstructPix2PixPipeline, scheduler)
    canvas = model.canvas(DRAWN, guidance=1.5)
    own = made(model, model.noise(SEED, SIDE, SIDE), canvas=canvas, sampler="ddim", steps=2)
    expected = pipe(image=DRAWN, image_guidance_scale=1.5, **texts(model, 2)).images
    report("pix2pix", own, expected, BOUND)


@torch.no_grad()
def test_a_lora_and_a_control_net(pair, tmp_path):
    pytest.importorskip("peft")
    from tests.parity.test_lora import random_lora

    config = ControlNetConfig(SD15.unet)
    with torch.device("meta"):
        network = ControlNet(config)
    control = reference_controlnet(config)
    control.load_state_dict(liven(network, 4).state_dict(), assign=True)
    control.eval().save_pretrained(tmp_path / "control")
    model, pipe = pair.kind(
        4, StableDiffusionControlNetPipeline, DDIMScheduler(**SCHEDULE), controlnet=control
    )
    tensors = random_lora(model, "kohya", 1.5, convolutions=True)
    file = tmp_path / "style.safetensors"
    save_file({key: value for key, value in tensors.items() if "unet" in key}, file)
    pipe.load_lora_weights(tmp_path, weight_name=file.name, adapter_name="style")
    pipe.set_adapters(["style"], [0.7])
    model = model.with_lora(file, 0.7).with_control(tmp_path / "control")
    hint = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    noise = model.noise(SEED, SIDE, SIDE)
    expected = pipe(
        image=hint,
        latents=noise.latent.clone(),
        controlnet_conditioning_scale=0.8,
        **texts(model, 2),
    ).images
    own = made(model, noise, control=[Control(hint, 0.8)], sampler="ddim", steps=2)
    report("LoRA and ControlNet", own, expected, BOUND)
