"""Convolutions in tiles are the same convolutions."""

import pytest
import torch
import torch.nn.functional as F

from sd_scratch.networks import tiles
from sd_scratch.networks.kernels import Cells, choose_cells
from sd_scratch.networks.layers import Conv2d, make_seamless
from sd_scratch.networks.tiles import convolve_in_tiles
from tests.tiny import tiny_model


def drawn(images, inputs, outputs, height, width, dtype=torch.float64):
    random = torch.Generator().manual_seed(0)
    shapes = ((images, inputs, height, width), (outputs, inputs, 3, 3), (outputs,))
    x, weight, bias = (torch.randn(s, dtype=dtype, generator=random) for s in shapes)
    return x, weight / (9 * inputs) ** 0.5, bias


@pytest.mark.parametrize("piece", [1, 36 * 16 * 3, tiles.PIECE])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize(
    "shape", [(1, 3, 4, 8, 8), (2, 5, 7, 5, 9), (3, 4, 20, 6, 70), (1, 1, 1, 3, 3)]
)
def test_it_is_the_same_convolution(monkeypatch, piece, padding, shape):
    monkeypatch.setattr(tiles, "PIECE", piece)
    x, weight, bias = drawn(*shape)
    expected = F.conv2d(x, weight, bias, padding=padding)
    for order in (torch.contiguous_format, torch.channels_last):
        ours = convolve_in_tiles(
            x.contiguous(memory_format=order), weight.contiguous(memory_format=order), bias, padding
        )
        assert ours.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(ours, expected, atol=1e-12)
    plain = F.conv2d(x, weight, None, padding=padding)
    assert torch.allclose(convolve_in_tiles(x, weight, None, padding), plain, atol=1e-12)


@pytest.mark.parametrize("channels", [128, 640])
def test_it_is_as_precise_as_direct_summation(channels):
    x, weight, bias = drawn(1, channels, 64, 32, 32)
    exact = F.conv2d(x, weight, bias, padding=1)
    x, weight, bias = x.float(), weight.float(), bias.float()
    errors = [
        (found - exact).square().mean().sqrt().item()
        for found in (F.conv2d(x, weight, bias, padding=1), convolve_in_tiles(x, weight, bias))
    ]
    assert errors[1] < 2e-6 and errors[1] < 2 * errors[0]


def test_a_layer_is_tiled_where_it_is_wide_and_has_many_cells(monkeypatch):
    called = []
    monkeypatch.setattr(
        "sd_scratch.networks.layers.in_tiles",
        lambda: lambda *given: called.append(1) or convolve_in_tiles(*given),
    )
    layer, narrow = Conv2d(128, 130, 3, padding=1), Conv2d(4, 128, 3, padding=1)
    halves, points = Conv2d(128, 128, 3, stride=2, padding=1), Conv2d(128, 128, 1)
    for each in (layer, narrow, halves, points):
        choose_cells(each, Cells(product=0, tiles=2 * 5 * 6))
    x = torch.randn(2, 128, 5, 6)
    with torch.no_grad():
        for each in (narrow, halves, points):
            each(x[:, : each.in_channels])
        layer(x[:1])
        assert not called
        for wrap in ("", "x"):
            make_seamless(layer, wrap)
            called.clear()
            tiled = layer(x)
            assert called
            layer.tile_cells = 0
            assert (layer(x) - tiled).abs().max() < 1e-5
            layer.tile_cells = 60
    called.clear()
    layer(x).sum().backward()
    assert not called and layer.weight.grad is not None


def test_a_whole_run_comes_out_the_same(monkeypatch):
    monkeypatch.setattr("sd_scratch.networks.kernels.TILE_CHANNELS", 1)
    model = tiny_model()
    plain = model.generate("a cat", model.noise(1), steps=2)
    for network in (model.unet, model.vae):
        choose_cells(network, Cells(product=0, tiles=1))
    tiled = model.generate("a cat", model.noise(1), steps=2)
    assert not torch.equal(tiled.latent, plain.latent)
    assert (tiled.latent - plain.latent).abs().max() < 1e-4
    images = [model.vae.decode(plain.latent)]
    model.vae.in_strips = True
    images.append(model.vae.decode(plain.latent))
    for network in (model.unet, model.vae):
        choose_cells(network, Cells(0, 0))
    images.append(model.vae.decode(plain.latent))
    assert (images[0] - images[1]).abs().max() < 1e-4
    assert (images[1] - images[2]).abs().max() < 1e-4
