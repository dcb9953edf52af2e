"""The two sides of a benchmark: our model, and diffusers' networks that share its weights."""

import argparse
import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sd_scratch.checkpoints import Components, load_components
from sd_scratch.checkpoints.config_json import autoencoder_json, text_encoder_json, unet_json
from sd_scratch.checkpoints.load import empty_components, read_layout
from sd_scratch.config import SD15, TINY, ModelConfig
from sd_scratch.errors import log
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.pipeline.tuning import tune

RANDOM = {"random-sd15": SD15, "random-tiny": TINY}


@dataclass(frozen=True)
class Theirs:
    """Networks of diffusers and transformers as they come, with our weights in their own order of
    memory; what both order alike is shared."""

    text: Any
    unet: Any
    vae: Any


def subject_config(source: str) -> ModelConfig:
    """What kind of model `source` is, without its weights."""
    return RANDOM[source] if source in RANDOM else read_layout(source).config


def subject(source: str, device: torch.device, dtype: torch.dtype) -> Components:
    """A model to measure: random weights, or what `source` names."""
    if source in RANDOM:
        return random_components(RANDOM[source], device, dtype)
    order = torch.channels_last  # as `sd_scratch.load` has it
    return load_components(source, device=device, dtype=dtype, memory_format=order)


def load_subject(
    args: argparse.Namespace, device: torch.device, dtype: torch.dtype
) -> tuple[StableDiffusion, Theirs | None]:
    """Our model, and theirs where it is wanted and there."""
    components = subject(args.model, device, dtype)
    tune(components, args.tune, args.size, args.size)
    return StableDiffusion(components), load_theirs(components, args.against)


def is_comparable(against: str) -> bool:
    """Whether diffusers is wanted and there; where it is wanted and missing, a warning says so."""
    if against == "nothing":
        return False
    if all(importlib.util.find_spec(name) for name in ("diffusers", "transformers")):
        return True
    log.warning("diffusers and transformers are not installed: nothing to compare with")
    return False


def random_components(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Components:
    """A whole model with random weights: real sizes and speeds, and no picture."""
    generator = torch.Generator().manual_seed(0)
    components = empty_components(config, source=config.name)
    for network in components.networks.values():
        _randomise(network, generator, device, dtype)
    return components


def load_theirs(components: Components, against: str) -> Theirs | None:
    if not is_comparable(against):
        return None
    # By name, so that the type check neither needs them nor looks into them.
    diffusers: Any = importlib.import_module("diffusers")
    transformers: Any = importlib.import_module("transformers")

    config = components.config
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(unet_json(config.unet, 64))
        vae_config = autoencoder_json(config.vae, config.sample_size)
        vae = diffusers.AutoencoderKL.from_config(vae_config)
    text_config = transformers.CLIPTextConfig.from_dict(text_encoder_json(config.text))
    text = transformers.CLIPTextModel(text_config)
    prefix = "text_model." if "text_model.final_layer_norm.bias" in text.state_dict() else ""
    device = components.unet.conv_in.weight.device
    for network, ours, start in (
        (text, components.text, prefix),
        (unet, components.unet, ""),
        (vae, components.vae, ""),
    ):
        state = {start + key: value.contiguous() for key, value in ours.state_dict().items()}
        network.load_state_dict(state, assign=True)
        network.to(device).eval().requires_grad_(False)
    return Theirs(text, unet, vae)


def _randomise(
    network: nn.Module, generator: torch.Generator, device: torch.device, dtype: torch.dtype
) -> None:
    """Weights that keep the variance of what passes through; norms and biases as they start."""

    def fill(name: str, like: Tensor) -> Tensor:
        if like.ndim > 1:
            return torch.randn(like.shape, generator=generator).div(like[0].numel() ** 0.5)
        is_scale = "norm" in name and name.endswith("weight")
        return torch.full(like.shape, 1.0 if is_scale else 0.0)

    state = {
        name: fill(name, like).to(device, dtype) for name, like in network.state_dict().items()
    }
    network.load_state_dict(state, assign=True)
    network.to(memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
