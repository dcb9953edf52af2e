"""The same networks as diffusers and transformers build them, from our configurations."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from sd_scratch.config import AutoencoderConfig, TextEncoderConfig, UNetConfig


def reference_unet(config: UNetConfig) -> UNet2DConditionModel:
    down = ["CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in config.cross_attention]
    up = ["CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in config.cross_attention[::-1]]
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            down_block_types=down,
            up_block_types=up,
            attention_head_dim=config.num_attention_heads,
            use_linear_projection=config.use_linear_projection,
            upcast_attention=config.upcast_attention,
            cross_attention_dim=config.cross_attention_dim,
            norm_num_groups=config.norm_num_groups,
        )


def reference_vae(config: AutoencoderConfig) -> AutoencoderKL:
    levels = len(config.block_out_channels)
    with torch.device("meta"):
        return AutoencoderKL(
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_num_groups,
            down_block_types=["DownEncoderBlock2D"] * levels,
            up_block_types=["UpDecoderBlock2D"] * levels,
            scaling_factor=config.scaling_factor,
        )


def reference_text_encoder(config: TextEncoderConfig) -> CLIPTextModel:
    fields = dict(vars(config))
    return CLIPTextModel(CLIPTextConfig(**fields, bos_token_id=0, eos_token_id=2))
