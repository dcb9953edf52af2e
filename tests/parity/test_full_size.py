"""SD 1.x at its full size: one folder of lively random weights, read by us and by the reference.

Prints the largest differences (``scripts/test -s -k full_size``). Takes 5 GB of disk and 12 GB of
memory, and skips where they are not there.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

import sd_scratch as sd
from sd_scratch.config import SD15
from tests.lively import liven
from tests.parity.references import reference_text_encoder, reference_unet, reference_vae

MEMORY, DISK = 14e9, 6e9


def available_memory() -> float:
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return float("inf")
    line = next(x for x in meminfo.read_text().splitlines() if x.startswith("MemAvailable"))
    return 1024 * float(line.split()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, full_size_turn):
    path = tmp_path_factory.mktemp("sd15")
    if available_memory() < MEMORY or shutil.disk_usage(path).free < DISK:
        pytest.skip("not enough memory or disk for a model of full size")
    liven(reference_unet(SD15.unet), 1).save_pretrained(path / "unet")
    liven(reference_vae(SD15.vae), 2).save_pretrained(path / "vae")
    liven(reference_text_encoder(SD15.text), 3).save_pretrained(path / "text_encoder")
    (path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def ours(folder):
    return sd.load(str(folder))


def report(name, ours, theirs, bound):
    difference = (ours - theirs).abs().max().item()
    print(f"{name:12} largest difference {difference:.1e} (values up to {theirs.abs().max():.2f})")
    assert theirs.std() > 0.05
    assert difference <= bound


@torch.no_grad()
def test_text_context(folder, ours):
    theirs = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    prompt = ours.prompt("a photograph of an astronaut riding a horse")
    expected = theirs(torch.tensor([prompt.encoding.ids])).last_hidden_state
    report("text context", prompt.context, expected, 1e-5)


@torch.no_grad()
def test_unet_eps(folder, ours):
    theirs = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()
    torch.manual_seed(0)
    x, context = torch.randn(2, 4, 64, 64), torch.randn(2, 77, 768)
    t = torch.tensor([981.0, 21.0])
    report("U-Net eps", ours.unet(x, t, context), theirs(x, t, context).sample, 1e-4)


@torch.no_grad()
def test_vae_moments_and_image(folder, ours):
    theirs = AutoencoderKL.from_pretrained(folder, subfolder="vae").eval()
    torch.manual_seed(0)
    image, z = torch.rand(1, 3, 512, 512) * 2 - 1, torch.randn(1, 4, 64, 64)
    expected = theirs.encode(image).latent_dist
    posterior = ours.vae.encode(image)
    report("VAE mean", posterior.mean, expected.mean, 1e-4)
    report("VAE logvar", posterior.logvar, expected.logvar, 1e-4)
    # Processors differ in what they round here, on either side: what counts is how far ours is from the truth.
    truth = theirs.double().decode(z.double()).sample
    report("VAE image", ours.vae.decode(z), truth, 1e-4)
