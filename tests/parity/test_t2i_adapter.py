"""T2I-Adapter's features and the pictures it steers, against diffusers on the same random weights."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionAdapterPipeline, T2IAdapter
from PIL import Image
from safetensors.torch import save_file

import sd_scratch as sd
from sd_scratch.config import TINY
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.pipeline.control import Control

WIDTHS = list(TINY.unet.block_out_channels)
RUN = {"sampler": "ddim", "steps": 3}
HINT = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def reference(in_channels: int = 3, **options: object) -> T2IAdapter:
    torch.manual_seed(7)
    sizes = {"channels": WIDTHS, "downscale_factor": TINY.vae.downscale}
    return T2IAdapter(in_channels, **{**sizes, **options}).eval()


def original(network: T2IAdapter) -> dict[str, torch.Tensor]:
    """The names that the authors' files have."""
    named = {}
    for key, value in network.adapter.state_dict().items():
        match key.split("."):
            case ["body", level, "in_conv", leaf]:
                named[f"body.{2 * int(level)}.in_conv.{leaf}"] = value
            case ["body", level, "resnets", layer, *rest]:
                named[f"body.{2 * int(level) + int(layer)}.{'.'.join(rest)}"] = value
            case _:
                named[key] = value
    return named


def written(network: T2IAdapter, path: Path, naming: str) -> Path:
    if naming == "folder":
        network.save_pretrained(path / "adapter")
        return path / "adapter"
    if naming == "bin":
        network.save_pretrained(path / "adapter", safe_serialization=False)
        return path / "adapter"
    if naming == "wrapped":
        torch.save({"adapter": original(network)}, path / "adapter.pth")
        return path / "adapter.pth"
    torch.save(original(network), path / "adapter.pth")
    return path / "adapter.pth"


@pytest.mark.parametrize("naming", ["folder", "bin", "pth", "wrapped"])
@torch.no_grad()
def test_features_are_those_of_diffusers(tiny_folder: Path, tmp_path: Path, naming: str) -> None:
    theirs = reference()
    model = sd.load(tiny_folder).with_control(written(theirs, tmp_path, naming))
    (ours,) = [a.network for a in model.adapters]
    assert model.adapters[0].summary == "adapter: T2I-Adapter of 28 tensors"
    hint = torch.rand(2, 3, 20, 36, generator=torch.Generator().manual_seed(1))  # 5 x 9 cells
    for a, b in zip(ours(hint), theirs(hint), strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-5 * max(1, float(b.abs().max()))


@pytest.mark.parametrize("channels", [3, 1])
def test_latents_are_those_of_diffusers(tiny_folder: Path, tmp_path: Path, channels: int) -> None:
    network = reference(channels)
    plain = sd.load(tiny_folder)
    ours = plain.with_control(written(network, tmp_path, "pth"))
    pipe = StableDiffusionAdapterPipeline.from_pretrained(
        tiny_folder, adapter=network, safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    noise = ours.noise(seed=3, width=64, height=64)
    hint = HINT if channels == 3 else HINT[:, :1].expand(-1, 3, -1, -1)
    latent = ours.generate("a star", noise, control=Control(hint, 0.7), **RUN).latent
    expected = pipe(
        "a star",
        HINT[:, :channels],
        num_inference_steps=3,
        guidance_scale=ours.config.guidance,
        latents=noise.latent.clone(),
        adapter_conditioning_scale=0.7,
        output_type="latent",
    ).images
    assert (latent - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert (latent - plain.generate("a star", noise, **RUN).latent).abs().max() > 1e-2


def test_features_have_names_can_be_edited_and_replayed(tiny_folder: Path, tmp_path: Path) -> None:
    plain = sd.load(tiny_folder)
    model = plain.with_control(written(reference(1), tmp_path, "folder"))
    names = [t.name for t in model.tensors("control.feature.*", "unet.features.*")]
    assert len(names) == 2 * len(WIDTHS)
    noise, control = (
        model.noise(1, 64, 64),
        Control(Image.new("RGB", (64, 64), "white"), 0.5, end=0.7),
    )
    with model.record("control.feature.0", "unet.features.*") as trace:
        latent = model.generate("a", noise, control=control, **RUN).latent
    made = trace["control.feature.0"].tensor.reshape(32, 16, 16)
    entered = trace["unet.features.0"].tensor.reshape(-1, 32, 16, 16)
    assert all(torch.equal(0.5 * made, each) for each in entered)
    trace.save(tmp_path / "trace")
    assert torch.equal(model.replay(tmp_path / "trace").latent, latent)
    with model.edit("unet.features.*", sd.edits.ablate()):
        none = model.generate("a", noise, control=control, **RUN).latent
    assert torch.equal(none, plain.generate("a", noise, **RUN).latent)


def test_what_cannot_be_had_is_refused_in_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    model = sd.load(tiny_folder)
    cases = {
        "a light T2I-Adapter": reference(adapter_type="light_adapter"),
        "a T2I-Adapter for another U-Net": reference(channels=[64, 64, 64]),
        "such as SDXL's": reference(adapter_type="full_adapter_xl", downscale_factor=16),
    }
    for message, network in cases.items():
        network.save_pretrained(tmp_path / "bad")
        with pytest.raises(ScratchError, match=message) as raised:
            model.with_control(tmp_path / "bad")
        assert "\n" not in str(raised.value)
    save_file(original(reference()), tmp_path / "adapter.safetensors")
    with pytest.raises(ScratchError, match="this is a T2I-Adapter - a whole"):
        sd.load(tmp_path / "adapter.safetensors")
    with pytest.raises(UsageError, match="no pooling"):
        model.with_control(tmp_path / "adapter.safetensors", global_pool=True)
    steered = model.with_control(tmp_path / "adapter.safetensors")
    with pytest.raises(UsageError, match="guess mode is for ControlNets"):
        steered.generate("a", steered.noise(1), control=Control(HINT, guess=True), **RUN)
