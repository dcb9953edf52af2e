"""ControlNet's residuals and the pictures it steers, against diffusers on the same random weights."""

import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline

import sd_scratch as sd
from sd_scratch.config import TINY, ControlNetConfig
from sd_scratch.networks.controlnet import ControlNet, after_others, weighted
from sd_scratch.pipeline.control import Control
from tests.lively import liven

CONFIG = ControlNetConfig(TINY.unet, conditioning_widths=(8, 16, 24))


def reference_controlnet(config: ControlNetConfig) -> ControlNetModel:
    unet = config.unet
    with torch.device("meta"):
        return ControlNetModel(
            in_channels=unet.in_channels,
            conditioning_channels=config.conditioning_channels,
            down_block_types=[
                "CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in unet.cross_attention
            ],
            block_out_channels=unet.block_out_channels,
            layers_per_block=unet.layers_per_block,
            norm_num_groups=unet.norm_num_groups,
            cross_attention_dim=unet.cross_attention_dim,
            attention_head_dim=unet.num_attention_heads,
            conditioning_embedding_out_channels=config.conditioning_widths,
            global_pool_conditions=config.global_pool,
        )


def lively_controlnet(config: ControlNetConfig = CONFIG) -> ControlNet:
    with torch.device("meta"):
        network = ControlNet(config)
    return liven(network, 4)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("guess", [False, True])
@torch.no_grad()
def test_residuals_are_those_of_diffusers(pool, guess):
    config = ControlNetConfig(CONFIG.unet, 3, CONFIG.conditioning_widths, pool)
    ours, theirs = lively_controlnet(config), reference_controlnet(config)
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)
    theirs.eval()
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(2, 4, 10, 12, generator=generator)
    context = torch.randn(2, 77, 32, generator=generator)
    hint = torch.rand(2, 3, 40, 48, generator=generator)
    t = torch.tensor([7.0, 901.0])
    down, middle = theirs(x_t, t, context, hint, 0.7, guess_mode=guess, return_dict=False)
    mine = weighted(ours(x_t, t, context, hint), 0.7, guess, pool)
    assert len(mine) == len(down) + 1
    for a, b in zip(mine, [*down, middle], strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() < 1e-5 * max(1, b.abs().max())


def test_residuals_of_the_prompt_alone():
    (both,) = after_others([torch.ones(2, 3, 1, 1)], 2)
    assert both.shape == (4, 3, 1, 1) and both[:2].abs().sum() == 0 and (both[2:] == 1).all()


def tensors(x) -> torch.Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(x))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two ControlNets for the tiny model, in the folders that diffusers writes."""
    root = tmp_path_factory.mktemp("control")
    for seed in (4, 5):
        network = reference_controlnet(CONFIG)
        with torch.device("meta"):
            ours = ControlNet(CONFIG)
        network.load_state_dict(liven(ours, seed).state_dict(), strict=True, assign=True)
        network.save_pretrained(root / str(seed))
    return [root / "4", root / "5"]


RUNS = {
    "one": ([Control(tensors(1), 0.8)], {}),
    "guess": ([Control(tensors(1), 0.8, guess=True)], {"guess_mode": True}),
    "a part of the run": (
        [Control(tensors(1), 1.0, start=0.2, end=0.75)],
        {"control_guidance_start": 0.2, "control_guidance_end": 0.75},
    ),
    "two": ([Control(tensors(1), 0.8), Control(tensors(2), -0.4)], {}),
}


@pytest.mark.parametrize("case", RUNS)
def test_latents_are_those_of_diffusers(tiny_folder, saved, case):
    controls, settings = RUNS[case]
    ours = sd.load(str(tiny_folder))
    plain = ours
    for folder, _ in zip(saved, controls, strict=False):
        ours = ours.with_control(folder)
    networks = [ControlNetModel.from_pretrained(f) for f, _ in zip(saved, controls, strict=False)]
    strengths = [control.strength for control in controls]
    hints = [control.hint for control in controls]
    single = len(controls) == 1
    theirs = StableDiffusionControlNetPipeline.from_pretrained(
        tiny_folder, controlnet=networks[0] if single else networks, safety_checker=None
    )
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = DDIMScheduler.from_config(theirs.scheduler.config)
    noise = ours.noise(seed=3, width=64, height=64)
    run = {"sampler": "ddim", "steps": 5}
    latent = ours.generate("an astronaut", noise, control=controls, **run).latent
    expected = theirs(
        "an astronaut",
        hints[0] if single else hints,
        num_inference_steps=5,
        guidance_scale=ours.config.guidance,
        latents=noise.latent.clone(),
        controlnet_conditioning_scale=strengths[0] if single else strengths,
        output_type="latent",
        **settings,
    ).images
    assert (latent - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (latent - plain.generate("an astronaut", noise, **run).latent).abs().max() > 1e-2
