"""A whole model with random weights, small enough to run in a test."""

from dataclasses import replace

import torch

from sd_scratch.checkpoints import Components
from sd_scratch.config import TINY, ModelConfig
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.networks.unet import UNet
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.text.tokenizer import Tokenizer
from tests.lively import liven


def tiny_components(config: ModelConfig = TINY, **schedule: object) -> Components:
    """Components of `config` with lively weights; keyword arguments change its schedule."""
    config = replace(config, schedule=replace(config.schedule, **schedule))
    with torch.device("meta"):
        text, vae, unet = TextEncoder(config.text), Autoencoder(config.vae), UNet(config.unet)
    tokenizer = Tokenizer.clip(config.text.max_position_embeddings)
    return Components(config, liven(text, 1), liven(vae, 2), liven(unet, 3), tokenizer, "tiny")


def tiny_model(config: ModelConfig = TINY, **schedule: object) -> StableDiffusion:
    return StableDiffusion(tiny_components(config, **schedule))
