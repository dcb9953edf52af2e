"""ControlNet's residuals and the pictures it steers, against diffusers on the same random weights."""

import pytest
import torch
from diffusers import ControlNetModel

from sd_scratch.config import TINY, ControlNetConfig
from sd_scratch.networks.controlnet import ControlNet, for_one_branch, weighted
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
    (both,) = for_one_branch([torch.ones(2, 3, 1, 1)], 2)
    assert both.shape == (4, 3, 1, 1) and both[:2].abs().sum() == 0 and (both[2:] == 1).all()
