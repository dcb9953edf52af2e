"""The U-Net on pixels is diffusers' `UNet2DModel`: same names, same numbers."""

import pytest
import torch

from sd_scratch.config import PixelUNetConfig
from sd_scratch.networks.pixel_unet import PixelUNet
from tests.lively import liven

diffusers = pytest.importorskip("diffusers")

CONFIGS = [
    PixelUNetConfig(
        sample_size=12,
        block_out_channels=(8, 16, 24),
        attention=(False, True, True),
        attention_head_dim=8,
        norm_num_groups=4,
    ),
    PixelUNetConfig(
        in_channels=3,
        num_classes=4,
        sample_size=8,
        block_out_channels=(8, 16),
        attention=(True, False),
        layers_per_block=2,
        attention_head_dim=4,
        norm_num_groups=4,
    ),
]


def reference(config: PixelUNetConfig) -> torch.nn.Module:
    levels = config.attention
    return diffusers.UNet2DModel(
        sample_size=config.sample_size,
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        down_block_types=tuple("AttnDownBlock2D" if on else "DownBlock2D" for on in levels),
        up_block_types=tuple("AttnUpBlock2D" if on else "UpBlock2D" for on in levels[::-1]),
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=config.num_classes + 1,
        norm_num_groups=config.norm_num_groups,
        attn_norm_num_groups=config.norm_num_groups,
        attention_head_dim=config.attention_head_dim,
    ).eval()


@pytest.mark.parametrize("config", CONFIGS, ids=["one channel", "three channels"])
def test_predictions_are_diffusers(config):
    ours = liven(PixelUNet(config))
    theirs = reference(config)
    theirs.load_state_dict(ours.state_dict())
    generator = torch.Generator().manual_seed(0)
    side = config.sample_size
    x = torch.randn(3, config.in_channels, side, side, generator=generator)
    t, classes = torch.tensor([0, 500, 999]), torch.tensor([0, 2, config.num_classes])
    with torch.no_grad():
        expected = theirs(x, t, class_labels=classes).sample
        found = ours(x, t.float(), classes)
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1)
