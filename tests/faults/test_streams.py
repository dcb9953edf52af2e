"""What reaches a terminal, and streams that are not there."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

import sd_scratch as sd
from sd_scratch.cli.console import escaped, one_line, report_error
from sd_scratch.errors import MemoryShortage
from sd_scratch.pipeline import coding
from tests.tiny import tiny_components, tiny_model

CALL = [sys.executable, "-m", "sd_scratch"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("a\x9b31mb", r"a\x9b31mb"),
        ("a\u202eb", r"a\u202eb"),
        ("a\ud800b", r"a\ud800b"),
        ("漢字 é 👩\u200d🚀\tx\n", "漢字 é 👩\u200d🚀\tx\n"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_messages_are_one_line() -> None:
    assert one_line("a\n\n b\x1b[2J\r\nc") == r"a b\x1b[2J c"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"
        ),
    ],
)
def test_every_devices_allocator_gives_one_line(error: Exception, capsys) -> None:
    assert report_error(error) == 1
    line = capsys.readouterr().err.strip()
    assert line.startswith("error: out of memory - make pictures smaller") and "--width" in line


LINE = r"^out of memory - make pictures smaller, fewer at a time, or compute in half precision$"


def ends(*arguments: object, **options: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


@pytest.mark.parametrize("network", ["text", "unet", "vae"])
def test_who_calls_from_python_is_told_the_same_line(network: str, monkeypatch) -> None:
    model = tiny_model()
    monkeypatch.setattr(getattr(model, network), "decode" if network == "vae" else "forward", ends)
    with pytest.raises(MemoryShortage, match=LINE):
        for made in model.run("a", count=1):
            made.to_pil()


@pytest.mark.parametrize("way", ["estimated", "tried"])
def test_a_picture_goes_in_strips_where_memory_does_not_suffice(
    way: str, monkeypatch, caplog
) -> None:
    model = tiny_model()
    noise, picture = model.noise(7, 32, 32), Image.radial_gradient("L").resize((32, 32))
    decoded, encoded = noise.decode(), model.encode(picture).latent
    free = {"estimated": 1000, "tried": None}[way]
    monkeypatch.setattr(coding, "available_memory", lambda device: free)
    for network in (model.vae.decoder, model.vae.encoder):  # which are called for the whole alone
        monkeypatch.setattr(network, "forward", ends if way == "tried" else None)
    assert (noise.decode() - decoded).abs().max() <= 2e-5 * decoded.abs().max()
    assert (model.encode(picture).latent - encoded).abs().max() <= 2e-5 * encoded.abs().max()
    assert "it is decoded in strips" in caplog.text and "it is encoded in strips" in caplog.text


def test_strips_that_do_not_fit_either_are_told(monkeypatch) -> None:
    model = tiny_model()
    monkeypatch.setattr(model.vae.decoder.conv_in, "forward", ends)
    with pytest.raises(MemoryShortage, match=LINE):
        model.noise(7).decode()


def test_an_encoder_that_overflows_is_run_again_in_float32() -> None:
    """Also while somebody listens, who hears what half precision made."""
    components = tiny_components()
    vae = components.vae.half()
    vae.encoder.conv_out.weight.mul_(3e4)
    vae.quant_conv.weight.mul_(1e3)
    half = {name: getattr(components, name).half() for name in ("text", "unet")}
    model = sd.StableDiffusion(replace(components, vae=vae, **half))
    picture = Image.radial_gradient("L").resize((32, 32))
    with model.record("vae.mean") as trace:
        assert model.encode(picture).latent.isfinite().all()
    (mean,) = trace.values.values()
    assert not mean.isfinite().all()


def test_a_closed_standard_output_is_no_traceback() -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *CALL, "weights", "list"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    to_stdout = ["generate", "a", "-o", "-", "--steps", "1"]
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *CALL, *to_stdout], capture_output=True, text=True
    )
    assert done.returncode == 2 and "standard output, which is closed" in done.stderr
