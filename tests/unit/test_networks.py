"""Facts about the networks that need no reference."""

import pytest
import torch

from sd_scratch.config import SCENES, SD15, SD15_INPAINTING, TINY
from sd_scratch.networks.attention import Attention, attention_scores
from sd_scratch.networks.autoencoder import Autoencoder, Posterior
from sd_scratch.networks.layers import (
    Conv2d,
    Linear,
    prefer_convolutions,
    timestep_embedding,
)
from sd_scratch.networks.text_encoder import CausalSelfAttention, TextEncoder
from sd_scratch.networks.unet import UNet
from tests.lively import liven


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_sd15_has_its_published_size():
    with torch.device("meta"):
        assert parameters(UNet(SD15.unet)) == 859_520_964
        assert parameters(Autoencoder(SD15.vae)) == 83_653_863
        assert parameters(TextEncoder(SD15.text)) == 123_060_480


def test_the_inpainting_unet_differs_in_its_first_convolution_alone():
    with torch.device("meta"):
        plain, inpainting = UNet(SD15.unet), UNet(SD15_INPAINTING.unet)
    shapes = {k: v.shape for k, v in plain.state_dict().items()}
    other = {k: v.shape for k, v in inpainting.state_dict().items()}
    assert {k for k in shapes if shapes[k] != other[k]} == {"conv_in.weight"}
    assert other["conv_in.weight"] == (320, 9, 3, 3)


def test_every_preset_has_at_least_two_levels():
    for preset in (SD15, TINY, SCENES):
        assert len(preset.unet.block_out_channels) >= 2
        assert len(preset.vae.block_out_channels) >= 2


@pytest.mark.parametrize("context_dim", [None, 24])
def test_fused_and_explicit_attention_agree(context_dim):
    attention = liven(Attention(32, 4, context_dim))
    x = torch.randn(2, 9, 32)
    context = None if context_dim is None else torch.randn(2, 5, context_dim)
    fused = attention(x, context)
    attention.explicit = True
    assert (attention(x, context) - fused).abs().max() < 1e-6


def test_fused_and_explicit_text_attention_agree_and_are_causal():
    attention = liven(CausalSelfAttention(TINY.text))
    x = torch.randn(2, 7, TINY.text.hidden_size)
    fused = attention(x)
    attention.explicit = True
    assert (attention(x) - fused).abs().max() < 1e-6

    later = x.clone()
    later[:, 4:] += 1
    assert torch.equal(attention(later)[:, :4], attention(x)[:, :4])


def test_attention_scores_of_some_rows_are_rows_of_the_scores():
    q, k = torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8)
    for causal in (False, True):
        scores = attention_scores(q, k, causal)
        assert torch.equal(attention_scores(q[:, :, 2:4], k, causal, first=2), scores[:, :, 2:4])
    assert scores.softmax(-1).triu(1).eq(0).all()


@pytest.mark.parametrize("shape", [(3, 32), (2, 7, 32), (2, 3, 7, 32)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_by_convolution_is_the_same_layer(shape, bias):
    layer = Linear(32, 24, bias=bias)
    x = torch.randn(shape)
    expected = layer(x)
    prefer_convolutions(layer)
    assert layer.by_convolution
    assert (layer(x) - expected).abs().max() < 1e-5
    assert layer(x).shape == expected.shape


@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize("wrap", ["", "x"])
def test_a_convolution_as_a_product_is_the_same_layer(kernel, stride, wrap):
    layer = Conv2d(12, 8, kernel, stride=stride, padding=kernel // 2)
    layer.wrap = wrap
    x = torch.randn(2, 12, 5, 4).contiguous(memory_format=torch.channels_last)
    expected = layer(x)
    layer.product_cells = 1000
    assert (layer(x) - expected).abs().max() < 1e-5
    assert layer(x).shape == expected.shape
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    layer.product_cells = 3  # fewer than the cells
    assert torch.equal(layer(x), expected)


def test_timestep_embedding_starts_with_cosines():
    e = timestep_embedding(torch.tensor([0.0, 3.0]), 8)
    assert e.shape == (2, 8)
    assert torch.equal(e[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    assert torch.allclose(e[1, [0, 4]], torch.tensor([3.0]).cos().new_tensor([-0.98999, 0.14112]))


def test_the_encoder_pads_right_and_bottom_only():
    """Any other padding shifts the latents by a fraction of a cell."""
    downsample = liven(Autoencoder(TINY.vae)).encoder.down_blocks[0].downsamplers[0]
    h = torch.randn(1, 16, 8, 8)
    corner = torch.nn.functional.conv2d(
        h[..., :3, :3], downsample.conv.weight, downsample.conv.bias
    )
    assert downsample(h).shape == (1, 16, 4, 4)
    assert torch.allclose(downsample(h)[..., :1, :1], corner, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (5, 13), (3, 3), (1, 1), (1, 16)])
def test_the_unet_takes_every_latent_size(size):
    unet = liven(UNet(TINY.unet))
    x = torch.randn(2, 4, *size)
    eps = unet(x, torch.tensor([10.0, 900.0]), torch.randn(2, 77, 32))
    assert eps.shape == x.shape
    assert eps.isfinite().all()


def test_networks_do_not_change_their_inputs():
    unet, vae = liven(UNet(TINY.unet)), liven(Autoencoder(TINY.vae))
    inputs = [torch.randn(1, 4, 8, 8), torch.tensor([7.0]), torch.randn(1, 77, 32)]
    z, image = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 32, 32)
    copies = [x.clone() for x in (*inputs, z, image)]
    unet(*inputs)
    vae.decode(z)
    vae.encode(image)
    assert all(torch.equal(a, b) for a, b in zip((*inputs, z, image), copies, strict=True))


def test_every_image_of_a_batch_is_computed_alone():
    unet = liven(UNet(TINY.unet))
    x, t, context = torch.randn(3, 4, 8, 8), torch.tensor([1.0, 50, 900]), torch.randn(3, 77, 32)
    both = unet(x, t, context)
    for i in range(3):
        alone = unet(x[i : i + 1], t[i : i + 1], context[i : i + 1])
        assert (both[i] - alone[0]).abs().max() < 1e-5


def test_posterior():
    mean, logvar = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    posterior = Posterior(mean, logvar)
    noise = torch.randn(2, 4, 3, 3)
    assert torch.allclose(posterior.sample(noise), mean + (0.5 * logvar).exp() * noise)
    p = torch.distributions.Normal(mean, posterior.std)
    kl = torch.distributions.kl_divergence(p, torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(posterior.kl(), kl.sum(dim=(1, 2, 3)), rtol=1e-4)


def test_the_posterior_stays_finite_for_wild_moments():
    vae = liven(Autoencoder(TINY.vae))
    vae.quant_conv.bias.fill_(1e4)
    posterior = vae.encode(torch.zeros(1, 3, 16, 16))
    assert posterior.logvar.max() == 20.0
    assert posterior.std.isfinite().all()


def test_clip_skip_leaves_out_the_last_layers():
    text = liven(TextEncoder(TINY.text))
    ids = torch.randint(0, 1000, (1, 77))
    second_last = text(ids, clip_skip=2)
    del text.encoder.layers[-1]
    text.config = TINY.text.__class__(**{**vars(TINY.text), "num_hidden_layers": 2})
    assert torch.equal(text(ids), second_last)
