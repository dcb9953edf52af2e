"""The autoencoder in strips makes the whole pictures and latents."""

from itertools import pairwise

import pytest
import torch

from sd_scratch.config import SD15, TINY
from sd_scratch.networks import strips
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.networks.layers import make_seamless
from sd_scratch.pipeline.estimate import decoder_values, run_bytes
from sd_scratch.pipeline.load import load
from tests.lively import liven
from tests.tiny import tiny_components, tiny_model


@pytest.fixture
def vae() -> Autoencoder:
    with torch.device("meta"):
        empty = Autoencoder(TINY.vae)
    return liven(empty, 2)


@pytest.mark.parametrize("wrap", ["", "x", "y", "xy"])
@pytest.mark.parametrize("strip", [1, 3000, 10**9])
def test_strips_make_the_whole_picture(
    vae: Autoencoder, monkeypatch: pytest.MonkeyPatch, strip: int, wrap: str
) -> None:
    """Of one row, of several, of all; two pictures with odd sides, at their edges or across them."""
    monkeypatch.setattr(strips, "STRIP", strip)
    make_seamless(vae, wrap)
    z = torch.randn(2, 4, 7, 9, generator=torch.Generator().manual_seed(0))
    whole = vae.decode(z)
    vae.in_strips = True
    found = vae.decode(z)
    assert found.shape == whole.shape == (2, 3, 28, 36)
    assert (found - whole).abs().max() <= 2e-5 * whole.abs().max()
    assert not torch.equal(found, whole) or strip == 10**9


@pytest.mark.parametrize("wrap", ["", "x", "y", "xy"])
@pytest.mark.parametrize("strip", [1, 3000, 10**9])
def test_strips_encode_as_the_whole(
    vae: Autoencoder, monkeypatch: pytest.MonkeyPatch, strip: int, wrap: str
) -> None:
    monkeypatch.setattr(strips, "STRIP", strip)
    make_seamless(vae, wrap)
    image = torch.rand(2, 3, 44, 52, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = vae.encode(image)
    vae.in_strips = True
    for found, expected in zip(vae.encode(image), whole, strict=True):
        assert found.shape == expected.shape == (2, 4, 11, 13)
        assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_a_smooth_picture_has_no_seams(vae: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbouring rows differ no more where strips meet than they do in the whole decoder's picture."""
    monkeypatch.setattr(strips, "STRIP", 3000)
    z = torch.linspace(-1, 1, 16)[:, None].expand(1, 4, 16, 16)
    whole = vae.decode(z)
    vae.in_strips = True
    steps = [(b - a).abs().max() for a, b in pairwise(vae.decode(z).unbind(2))]
    expected = [(b - a).abs().max() for a, b in pairwise(whole.unbind(2))]
    assert max(abs(x - y) for x, y in zip(steps, expected, strict=True)) < 1 / 255 / 100


@pytest.mark.parametrize("name", ["norm_out", "up_blocks.0.resnets.1.norm1"])
def test_who_listens_hears_the_whole_decoder(name: str) -> None:
    model = tiny_model()
    model.vae.in_strips = True
    picture = model.noise(7)
    with model.record(f"vae.decoder.{name}") as trace:
        picture.decode()
    assert trace.values


def test_half_precision_that_overflows_is_decoded_again() -> None:
    """In strips, too: what the decoder cannot hold in float16 it can in float32."""
    components = tiny_components()
    vae = components.vae.half()
    vae.decoder.conv_out.weight.mul_(3e4)
    vae.in_strips = True
    model = tiny_model()
    noise = model.noise(7)
    object.__setattr__(noise, "autoencoder", vae)
    z = vae.from_latent(noise.latent).half()
    assert not vae.decode(z).isfinite().all()
    assert noise.decode().isfinite().all()


def test_the_estimate_knows_of_strips() -> None:
    whole, cut = (decoder_values(SD15.vae, 1024, 1024, strips) for strips in (False, True))
    assert cut < 0.7 * whole
    assert 4 * cut < 6e9
    sizes = {
        batch: run_bytes(TINY, 512, 512, batch, torch.float32, branches=1, strips=True)
        for batch in (1, 2)
    }
    assert sizes[2] < 2 * run_bytes(TINY, 512, 512, 1, torch.float32, branches=1)
    assert sizes[1] <= sizes[2]


def test_a_model_is_loaded_so() -> None:
    assert load("scenes", vae_tiling=True).vae.in_strips
    assert not load("scenes").vae.in_strips
