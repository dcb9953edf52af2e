"""Runs that cannot fit into memory: told beforehand, from sizes alone, and not far from what is measured."""

import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import sd_scratch as sd
from sd_scratch.checkpoints import memory
from sd_scratch.checkpoints.shipped import weights_folder
from sd_scratch.cli import main
from sd_scratch.config import (
    SCENES,
    SD15,
    TINY,
    ContextUNetConfig,
    PixelModelConfig,
    PixelUNetConfig,
    ScheduleConfig,
    UNetConfig,
)
from sd_scratch.errors import MemoryShortage
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.networks.context_unet import ContextUNet
from sd_scratch.networks.pixel_unet import PixelUNet
from sd_scratch.networks.unet import UNet
from sd_scratch.pipeline.estimate import (
    check_run,
    decoder_values,
    gradient_values,
    pixel_bytes,
    run_bytes,
    unet_values,
)
from tests.tiny import tiny_components, tiny_model

# SD 1.x with a tenth of its channels: as deep, and quick.
SLIM = replace(
    SD15,
    unet=replace(SD15.unet, block_out_channels=(32, 64, 128, 128)),
    vae=replace(SD15.vae, block_out_channels=(32, 64, 128, 128)),
)
GIB = 2**30


class Peak(TorchDispatchMode):
    """Counts the bytes of all tensors that live at once, but for the weights of a network."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.known = {p.untyped_storage().data_ptr() for p in network.parameters()}
        self.known |= {b.untyped_storage().data_ptr() for b in network.buffers()}
        self.live, self.now, self.most = set(), 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        return made

    def count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.live or storage.data_ptr() in self.known:
            return
        self.live.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.forget, key, size)

    def forget(self, key: int, size: int) -> None:
        self.live.discard(key)
        self.now -= size


def measured(network, *inputs, call=None) -> int:
    network.eval()
    with torch.no_grad(), Peak(network) as peak:
        (call or network)(*inputs)
    return peak.most


def near(estimate: int, found: int) -> bool:
    """A lower bound, at most a fifth below."""
    return 0.8 * found <= estimate <= 1.02 * found


@pytest.mark.parametrize(("config", "side"), [(SCENES, 64), (TINY, 64), (SLIM, 128)])
def test_estimates_are_what_a_text_to_image_model_takes(config, side: int) -> None:
    cells = side // config.vae.downscale
    unet, vae = UNet(config.unet), Autoencoder(config.vae)
    context = torch.zeros(2, 8, config.unet.cross_attention_dim)
    found = measured(unet, torch.zeros(2, 4, cells, cells), torch.zeros(2), context)
    assert near(4 * 2 * unet_values(config.unet, cells, cells), found)
    found = measured(vae, torch.zeros(2, 4, cells, cells), call=vae.decode)
    assert near(4 * 2 * decoder_values(config.vae, side, side), found)


@pytest.mark.parametrize(
    ("network", "config"),
    [(PixelUNet, PixelUNetConfig()), (ContextUNet, ContextUNetConfig(features=32))],
)
def test_estimates_are_what_a_model_of_pixels_takes(network, config) -> None:
    x, number = torch.zeros(8, 1, 28, 28), torch.zeros(8, dtype=torch.long)
    found = measured(network(config), x, torch.zeros(8), number)
    whole = PixelModelConfig("a", config, ScheduleConfig())
    assert near(pixel_bytes(whole, 4), found)  # with both branches of guidance


def test_estimates_of_the_model_of_full_size() -> None:
    """512 pixels need about a gigabyte, as everybody knows; guidance, a batch and fp16 count."""
    one = run_bytes(SD15, 512, 512, 1, torch.float32)
    assert 0.7 * GIB < one < 1.2 * GIB
    assert run_bytes(SD15, 512, 512, 4, torch.float16) == 2 * one
    steered = run_bytes(SD15, 64, 2048, 1, torch.float32, controls=90)
    assert steered > run_bytes(SD15, 64, 2048, 1, torch.float32)


@pytest.mark.parametrize(
    ("network", "config", "side"),
    [
        (UNet, TINY.unet, 16),
        (UNet, SLIM.unet, 16),
        (PixelUNet, PixelUNetConfig(), 28),
        (PixelUNet, PixelUNetConfig(attention=(False, True, True), layers_per_block=2), 28),
        (ContextUNet, ContextUNetConfig(features=32), 28),
    ],
)
def test_estimates_are_what_gradients_keep(network, config, side: int) -> None:
    unet = network(config).eval().requires_grad_(False)
    known = {p.untyped_storage().data_ptr() for p in unet.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in known:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    x = torch.zeros(1, config.in_channels, side, side, requires_grad=True)
    told = torch.zeros(1, dtype=torch.long)
    if isinstance(config, UNetConfig):
        told = torch.zeros(1, 8, config.cross_attention_dim)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        unet(x, torch.zeros(1), told)
    found = sum(x.untyped_storage().nbytes() for x in kept.values())
    assert near(4 * gradient_values(config, side, side), found)


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda device: 2 * GIB)


def test_a_wish_beyond_all_memory_is_one_line_before_anything_is_made(little) -> None:
    model = tiny_model()
    with pytest.raises(MemoryShortage, match=r"one picture of 65536x65536 as fp32 would take at l"):
        model.noise(1, 65536, 65536)
    noise = model.noise(1)
    large = noise.with_latent(torch.zeros(1, 4, 1, 1).expand(1, 4, 4096, 4096), t=999)
    with pytest.raises(MemoryShortage, match="and 2.00 GiB of memory are free on cpu - make them"):
        next(model.steps("a", large))
    with pytest.raises(MemoryShortage, match="64 pictures of 2048x2048 as fp32 beside the weights"):
        check_run(TINY, 2048, 2048, 64, torch.float32, torch.device("cpu"), weights=1)
    forced = sd.StableDiffusion(replace(tiny_components(), force=True))
    assert next(forced.steps("a", forced.noise(1), steps=1)).index == 0


def test_what_is_recorded_or_kept_for_gradients_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what the run itself takes, for which alone there is memory here."""
    model = tiny_model()
    free = run_bytes(TINY, 64, 64, 1, torch.float32, strips=True) + 50_000
    monkeypatch.setattr(memory, "available_memory", lambda device: free)
    prompt, noise = model.prompt("a"), model.noise(1)
    leaf = noise.with_latent(noise.latent.clone().requires_grad_())
    with model.record("unet.h", calls=0):
        model.generate(prompt, noise, steps=1)
    monkeypatch.setattr(model.unet, "forward", None)
    line = (
        "^one picture of 64x64 as fp32 with all that is recorded or kept for gradients would take"
    )
    with model.record("unet.*.norm1"), pytest.raises(MemoryShortage, match=line):
        model.generate(prompt, noise, steps=4)
    with model.record("unet.h", gradients=True), pytest.raises(MemoryShortage, match=line):
        model.generate(prompt, leaf, sampler="ddim", steps=2)


def test_what_a_model_of_pixels_keeps_for_gradients_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sd.load_pixels("ddpm-mnist")
    free = pixel_bytes(model.config, 1) + 50_000_000
    monkeypatch.setattr(memory, "available_memory", lambda device: free)
    model.generate(3, 0, steps=1)
    with (
        model.record("unet.h", gradients=True),
        pytest.raises(MemoryShortage, match="^1 pictures of 28x28"),
    ):
        model.generate(3, 0, sampler="ddim", steps=9)


def test_a_device_that_does_not_say_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda device: None)
    check_run(SD15, 65536, 65536, 64, torch.float32, torch.device("cpu"))


def test_free_memory_is_that_of_the_container(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available_memory() is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:       4 kB\n")
    assert memory.available_memory() == 4096
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("2000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 500\n")
    assert memory.available_memory() == 4096
    (tmp_path / "memory.max").write_text("3000\n")
    assert memory.available_memory() == 1500


def test_at_the_command_line_it_names_what_to_lower(
    tiny_folder: Path, tmp_path: Path, little, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    model = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    words = ["-m", str(model), "--device", "cpu"]
    for command in (
        ["generate", "a", "-W", "8192", "-H", "8192"],
        ["generate", "a", "-W", "2048", "-H", "2048", "--batch-size", "64", "-b", "64"],
        ["trace", "a", "-W", "8192", "-H", "8192", "--tensors", "unet.h", "-o", "trace"],
        ["map", "heat", "a star", "-W", "8192", "-H", "8192", "-o", "heat"],
    ):
        assert main([*command, *words]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ") and "GiB and 2.00 GiB of memory are free" in error
        assert "--width, --height, --batch-size" in error
    config = json.loads((model / "unet" / "config.json").read_text())
    (model / "unet" / "config.json").write_text(json.dumps(config | {"sample_size": 256}))
    monkeypatch.setattr(memory, "available_memory", lambda device: GIB // 8)
    assert main(["generate", "a", *words]) == 1
    assert "one picture of 1024x1024 as fp32 beside" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/*.png"))


def test_a_model_of_large_pixels(tmp_path: Path, little, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    model = Path(shutil.copytree(weights_folder() / "ddpm-mnist", tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    config["network"]["sample_size"] = 1024
    (model / "config.json").write_text(json.dumps(config))
    assert main(["sample", "mnist", "-m", "model", "--device", "cpu"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "80 pictures of 1024x1024 would take at least" in error and "fewer at a time" in error
