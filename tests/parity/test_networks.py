"""Our networks against diffusers' and transformers', with the same lively weights."""

from dataclasses import replace

import pytest
import torch

from sd_scratch.config import SCENES, TINY
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.networks.unet import UNet
from tests.lively import liven
from tests.parity.references import reference_text_encoder, reference_unet, reference_vae

SIZES = [(16, 16), (9, 14)]
CONFIGS = pytest.mark.parametrize("config", [TINY, SCENES], ids=lambda config: config.name)


def difference(a, b):
    return (a - b).abs().max().item()


@CONFIGS
@pytest.mark.parametrize("size", SIZES)
def test_unet(config, size):
    ours = liven(UNet(config.unet))
    theirs = reference_unet(config.unet)
    theirs.load_state_dict(ours.state_dict(), assign=True)
    x, t = torch.randn(2, 4, *size), torch.tensor([981.0, 3.0])
    context = torch.randn(2, 77, config.unet.cross_attention_dim)
    expected = theirs.eval()(x, t, context).sample
    assert expected.std() > 0.1
    assert difference(ours(x, t, context), expected) < 1e-5


def test_unet_of_the_second_generation():
    """Linear projections around the transformers, and a number of heads for each level."""
    config = replace(
        TINY.unet,
        num_attention_heads=(2, 4, 8),
        use_linear_projection=True,
        cross_attention_dim=48,
    )
    with torch.device("meta"):
        ours = UNet(config)
    ours, theirs = liven(ours), reference_unet(config)
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(2, 4, 9, 14, generator=generator), torch.tensor([981.0, 3.0])
    context = torch.randn(2, 77, 48, generator=generator)
    with torch.no_grad():
        expected = theirs.eval()(x, t, context).sample
        assert difference(ours(x, t, context), expected) < 1e-5
        assert ours.down_blocks[0].attentions[0].transformer_blocks[0].attn1.heads == 2
        assert ours.mid_block.attentions[0].transformer_blocks[0].attn1.heads == 8


@CONFIGS
def test_autoencoder(config):
    ours = liven(Autoencoder(config.vae))
    theirs = reference_vae(config.vae)
    theirs.load_state_dict(ours.state_dict(), assign=True)
    theirs.eval()
    image, z = torch.randn(2, 3, 64, 40), torch.randn(2, 4, 9, 5)
    expected = theirs.encode(image).latent_dist
    posterior = ours.encode(image)
    assert expected.mean.std() > 0.1
    assert difference(posterior.mean, expected.mean) < 1e-5
    assert difference(posterior.logvar, expected.logvar) < 1e-5
    picture = theirs.decode(z).sample
    assert difference(ours.decode(z), picture) < 1e-5 * max(1, picture.abs().max().item())


@CONFIGS
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_text_encoder(config, activation):
    fields = {**vars(config.text), "hidden_act": activation}
    text = type(config.text)(**fields)
    ours = liven(TextEncoder(text))
    theirs = reference_text_encoder(text).eval()
    theirs.load_state_dict(ours.state_dict())
    ids = torch.randint(0, text.vocab_size, (3, text.max_position_embeddings))
    expected = theirs(ids).last_hidden_state
    assert difference(ours(ids), expected) < 1e-5


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_fast_path_of_the_cpu_gives_the_same_numbers(channels_last):
    from sd_scratch.networks.layers import prefer_convolutions

    ours = liven(UNet(TINY.unet))
    x, t, context = torch.randn(2, 4, 16, 16), torch.tensor([9.0, 500.0]), torch.randn(2, 77, 32)
    expected = ours(x, t, context)
    prefer_convolutions(ours)
    if channels_last:
        ours.to(memory_format=torch.channels_last)
    assert difference(ours(x, t, context), expected) < 1e-5
