"""What no command line brings about by itself: disks that fill up, signals, races, files that decay on the way.

Each function lets a command run - or what a program does in Python - in the midst of it, and returns the exit
status.
"""

import errno
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import sd_scratch as sd
from sd_scratch.checkpoints import hub as client
from sd_scratch.cli import load, main, output
from sd_scratch.networks.autoencoder import Decoder
from sd_scratch.networks.unet import UNet
from sd_scratch.pipeline import coding
from sd_scratch.tensors import Trace
from sd_scratch.training import journal, state
from sd_scratch.training.journal import read_journal
from sd_scratch.training.pixels.ddpm import DdpmTask
from tests.fake_hub import REPO, Hub
from tests.tiny import tiny_model

Play = Callable[[pytest.FixtureRequest], int]
GENERATE = ["generate", "a", "-m", "model", "--device=cpu", "--steps=2", "-W=16", "-H=16", "-s=7"]
DOWNLOAD = ["weights", "download"]
TRAIN = ["train", "mnist", "-o", "run", "--batch", "8", "--max-steps"]


def patcher(request: pytest.FixtureRequest) -> pytest.MonkeyPatch:
    patch = request.getfixturevalue("monkeypatch")
    assert isinstance(patch, pytest.MonkeyPatch)
    return patch


def no_space(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# Memory -------------------------------------------------------------------------------------------------


def no_memory(*arguments: object, **options: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def memory_ends_in_the_decoder(request: pytest.FixtureRequest) -> int:
    patcher(request).setattr(coding, "available_memory", lambda device: None)
    patcher(request).setattr(Decoder, "forward", no_memory)
    return main([*GENERATE, "-o", "new.png"])


def memory_ends_in_the_unet(request: pytest.FixtureRequest) -> int:
    patcher(request).setattr(UNet, "forward", no_memory)
    return main(GENERATE)


# The hub ------------------------------------------------------------------------------------------------


def hub_of(request: pytest.FixtureRequest) -> Hub:
    hub = request.getfixturevalue("hub")
    assert isinstance(hub, Hub)
    return hub


def a_download_breaks_off(request: pytest.FixtureRequest) -> int:
    hub, weights = hub_of(request), "unet/diffusion_pytorch_model.safetensors"
    patcher(request).setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.broken[weights] = 1_000_000
    status = main([*DOWNLOAD, REPO])
    asked = [
        {key.lower(): value for key, value in headers.items()}.get("range")
        for method, path, headers in hub.requests
        if method == "GET" and path.endswith(weights)
    ]
    assert asked[0] is None
    assert 0 < int(asked[1].removeprefix("bytes=")[:-1]) <= 1_000_000  # it went on from there
    (file,) = Path("cache").rglob(f"snapshots/*/{weights}")
    assert file.read_bytes() == hub.files[REPO][weights]
    return status


def a_model_is_gated(request: pytest.FixtureRequest) -> int:
    hub_of(request).gated.add(REPO)
    return main([*DOWNLOAD, REPO])


def a_model_is_gone(request: pytest.FixtureRequest) -> int:
    hub_of(request).files.clear()
    return main([*DOWNLOAD, REPO])


def a_revision_is_not_there(request: pytest.FixtureRequest) -> int:
    hub_of(request)
    return main([*DOWNLOAD, REPO, "--revision", "v99"])


def other_bytes_than_pinned(request: pytest.FixtureRequest) -> int:
    hub = hub_of(request)
    assert isinstance(request.getfixturevalue("pinned"), client.Pinned)
    name = "unet/diffusion_pytorch_model.safetensors"
    hub.files[REPO][name] = hub.files[REPO][name][:-4] + b"abcd"
    return main([*DOWNLOAD, "sd15"])


# Outputs ------------------------------------------------------------------------------------------------


def the_disk_fills_up(request: pytest.FixtureRequest) -> int:
    """While the second of three pictures is written: the first stays, and nothing is half there."""
    real, calls = output.write_numbered, []

    def write(*arguments: Any) -> Path:
        calls.append(arguments)
        if len(calls) == 2:
            patcher(request).setattr(os, "fsync", no_space)
        return real(*arguments)

    patcher(request).setattr(output, "write_numbered", write)
    status = main([*GENERATE, "-b", "3"])
    assert os.listdir("out") == ["7-0000.png"]
    return status


def another_run_takes_the_name(request: pytest.FixtureRequest) -> int:
    """At the last moment, twice."""
    real = os.link

    def link(part: Path, path: Path) -> None:
        if path.name in ("7-0000.png", "7-0001.png"):
            path.write_bytes(b"theirs")
        real(part, path)

    patcher(request).setattr(os, "link", link)
    status = main(GENERATE)
    assert Path("out/7-0000.png").read_bytes() == Path("out/7-0001.png").read_bytes() == b"theirs"
    Image.open("out/7-0002.png").load()
    return status


def somebody_looks_while_it_is_written(request: pytest.FixtureRequest) -> int:
    """At every write to the disk: the picture is not there, or whole."""
    real, seen = os.fsync, []

    def look(handle: int) -> None:
        for path in Path("out").glob("*.png"):
            Image.open(path).load()
        seen.append(len(list(Path("out").glob("*.png"))))
        real(handle)

    patcher(request).setattr(os, "fsync", look)
    status = main(GENERATE)
    assert seen[0] == 0 and seen[-1] == 1
    return status


def at_write(request: pytest.FixtureRequest, number: int, happens: Callable[[], object]) -> None:
    """Let something happen at so many writes to the disk."""
    real, writes = os.fsync, []

    def flush(handle: int) -> None:
        writes.append(handle)
        if len(writes) == number:
            happens()
        real(handle)

    patcher(request).setattr(os, "fsync", flush)


def the_disk_fills_up_with_a_model(request: pytest.FixtureRequest) -> int:
    """While its second file is written, into a folder of its own: nothing is left of it."""
    at_write(request, 3, no_space)  # the first was a try
    status = main(["weights", "convert", "model", "new"])
    assert not Path("new").exists()
    return status


def interrupted_while_a_model_is_written(request: pytest.FixtureRequest) -> int:
    # What Python does in a terminal; where the tests run in the background, Ctrl-C is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    at_write(request, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
    status = main(["weights", "convert", "model", "new"])
    assert not Path("new").exists()
    return status


# Signals ------------------------------------------------------------------------------------------------


def signals(
    request: pytest.FixtureRequest, *numbers: int, step: int = 0, goes_on: bool = True
) -> None:
    """Send them to ourselves when so many steps of the run have been taken."""
    real, taken = sd.StableDiffusion.steps, []

    def steps(model: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        for taken_step in real(model, *arguments, **options):
            taken.append(taken_step)
            if len(taken) == step:
                for number in numbers:
                    os.kill(os.getpid(), number)
                assert goes_on, "it went on"
            yield taken_step

    patcher(request).setattr(sd.StableDiffusion, "steps", steps)


def interrupted_in_the_second_picture(request: pytest.FixtureRequest) -> int:
    signals(request, signal.SIGINT, step=3)
    handler = signal.getsignal(signal.SIGINT)
    status = main([*GENERATE, "-b", "3", "--save-latents=out/l.safetensors"])
    assert sorted(os.listdir("out")) == ["7-0000.png", "l.safetensors"]
    assert load_file("out/l.safetensors")["latents"].shape[0] == 1
    assert signal.getsignal(signal.SIGINT) is handler
    return status


def interrupted_at_the_last_step(request: pytest.FixtureRequest) -> int:
    signals(request, signal.SIGINT, step=2)
    status = main([*GENERATE, "-b", "3", "--json"])
    assert os.listdir("out") == ["7-0000.png"]
    return status


def interrupted_twice(request: pytest.FixtureRequest) -> int:
    signals(request, signal.SIGINT, signal.SIGINT, step=1, goes_on=False)
    status = main(GENERATE)
    assert os.listdir("out") == []
    return status


def terminated(request: pytest.FixtureRequest) -> int:
    signals(request, signal.SIGTERM, step=3, goes_on=False)
    status = main([*GENERATE, "-b", "3"])
    assert os.listdir("out") == ["7-0000.png"]
    return status


def nobody_reads_the_output(request: pytest.FixtureRequest) -> int:
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "w") as stream:
        patcher(request).setattr(sys, "stdout", stream)
        return main(["weights", "list"])


# Files that change --------------------------------------------------------------------------------------


def a_file_shrinks_while_it_is_read(request: pytest.FixtureRequest) -> int:
    real = load.build_components

    def build(*arguments: Any, **options: Any) -> Any:
        os.truncate(next(Path("bad/unet").glob("*.safetensors")), 300_000)
        return real(*arguments, **options)

    shutil.copytree("model", "bad")
    patcher(request).setattr(load, "build_components", build)
    return main([*GENERATE, "-m", "bad"])


def a_trace_is_cut_after_it_was_opened(request: pytest.FixtureRequest) -> int:
    assert main(["trace", *GENERATE[1:], "--tensors", "unet.h", "-o", "cut"]) == 0
    trace = Trace.load("cut")
    for path in Path("cut").glob("values-*.safetensors"):
        os.truncate(path, path.stat().st_size // 2)
    for name in trace.names:
        trace[name].tensor  # noqa: B018
    return 0


# The same, whatever the machine -------------------------------------------------------------------------


def noise_is_drawn_on_the_processor(request: pytest.FixtureRequest) -> int:
    """The stream of PyTorch's own generator, whose global state stays."""
    before = torch.get_rng_state()
    status = main(["trace", *GENERATE[1:], "--tensors", "sampler.noise", "-o", "out"])
    assert torch.equal(torch.get_rng_state(), before)
    (noise,) = Trace.load("out")["sampler.noise"].tensor
    assert torch.equal(noise, torch.randn(noise.shape, generator=torch.Generator().manual_seed(7)))
    return status


def latents(name: str, *words: str) -> torch.Tensor:
    path = f"out/{name}.safetensors"
    assert main([*GENERATE, *words, "--save-latents", path]) == 0
    return load_file(path)["latents"]


def two_at_once_and_one_by_one(request: pytest.FixtureRequest) -> int:
    both = latents("both", "-b=2", "--batch-size=2")
    assert (latents("second", "-s=8") - both[1]).abs().max() < 2e-3
    return 0


def one_thread_and_two(request: pytest.FixtureRequest) -> int:
    before = torch.get_num_threads()
    try:
        assert (
            latents("one", "-t=1", "--steps=1", "-W=8", "-H=8")
            - latents("two", "-t=2", "--steps=1", "-W=8", "-H=8")
        ).abs().max() < 1e-4
    finally:
        torch.set_num_threads(before)
    return 0


# Training -----------------------------------------------------------------------------------------------


def small(request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("tiny_presets")


def steps_of(folder: str = "run/ddpm") -> list[int]:
    return [row["step"] for row in read_journal(Path(folder)) if "loss" in row]


def a_loss_is_not_finite(request: pytest.FixtureRequest) -> int:
    """From the third step on: what was learnt by then can be read."""
    small(request)
    assert main([*TRAIN, "2"]) == 0
    real = DdpmTask.loss

    def loss(task: DdpmTask, *arguments: Any) -> Any:
        found, figures = real(task, *arguments)
        return found * torch.nan, figures

    patcher(request).setattr(DdpmTask, "loss", loss)
    status = main([*TRAIN, "4", "--resume"])
    kept = state.load_state(Path("run/ddpm"))
    assert kept is not None and kept.step == 2
    assert all(value.isfinite().all() for value in kept.model.values())
    return status


def other_settings(request: pytest.FixtureRequest) -> int:
    small(request)
    assert main([*TRAIN, "1"]) == 0
    return main([*TRAIN, "2", "--resume", "--batch", "4"])


def states(request: pytest.FixtureRequest) -> list[Path]:
    """The files of two states, the newest first."""
    small(request)
    for more in (["1"], ["2", "--resume"]):
        assert main([*TRAIN, *more]) == 0
    first, second = sorted(Path("run/ddpm").glob("state-*.pt"))
    return [second, first]


def half_a_state(request: pytest.FixtureRequest) -> int:
    newest, _ = states(request)
    os.truncate(newest, newest.stat().st_size // 2)
    return main([*TRAIN, "3", "--resume"])


def only_damaged_states(request: pytest.FixtureRequest) -> int:
    for path in states(request):
        os.truncate(path, 100)
    return main([*TRAIN, "3", "--resume"])


def a_changed_byte(request: pytest.FixtureRequest) -> int:
    newest, _ = states(request)
    data = bytearray(newest.read_bytes())
    data[-3000] ^= 4
    newest.write_bytes(data)
    return main([*TRAIN, "3", "--resume"])


def no_room_for_the_journal(request: pytest.FixtureRequest) -> int:
    """The disk is full from the second row on, in the middle of it, and has room again for the next run."""
    small(request)
    real, rows = os.write, []

    def write(handle: int, data: bytes) -> int:
        rows.append(data)
        if len(rows) == 2:
            return real(handle, data[:5])
        if len(rows) > 2:
            no_space()
        return real(handle, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal.os, "write", write)
        status = main([*TRAIN, "4"])
    assert steps_of() == [1]
    assert main([*TRAIN, "5", "--resume"]) == 0
    assert steps_of() == [1, 2, 3, 4, 5]
    return status


def a_journal_cannot_be_rewritten(request: pytest.FixtureRequest) -> int:
    small(request)
    assert main([*TRAIN, "2"]) == 0
    before = Path("run/ddpm/log.jsonl").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "write_file", no_space)
        status = main([*TRAIN, "3", "--resume"])
    assert Path("run/ddpm/log.jsonl").read_bytes() == before
    assert main([*TRAIN, "4", "--resume"]) == 0
    assert steps_of() == [1, 2, 3, 4]
    return status


# Several runs on one model ------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {"steps": 3, "sampler": "ddim"}


def latent(model: sd.StableDiffusion, seed: int) -> torch.Tensor:
    return model.generate(model.prompt("a red circle"), model.noise(seed), **SETTINGS).latent


def four_threads_on_one_model(request: pytest.FixtureRequest) -> int:
    """Three generate while one edits and records."""
    model = tiny_model()
    plain = [latent(model, seed) for seed in range(4)]
    with model.edit("unet.conv_in", lambda x, at: x * 0.5):
        edited = latent(model, 0)
    wrong, start = [], threading.Barrier(4)

    def generate(seed: int) -> None:
        start.wait()
        for _ in range(3):
            if not torch.equal(latent(model, seed), plain[seed]):
                wrong.append(seed)

    def edit() -> None:
        start.wait()
        for _ in range(3):
            with (
                model.edit("unet.conv_in", lambda x, at: x * 0.5),
                model.record("unet.*.attn2.probs", branch="cond"),
            ):
                if not torch.equal(latent(model, 0), edited):
                    wrong.append(0)

    threads = [threading.Thread(target=generate, args=(seed,)) for seed in (1, 2, 3)]
    threads.append(threading.Thread(target=edit))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    return 0


def two_models_on_one_compiled_network(request: pytest.FixtureRequest) -> int:
    model = tiny_model()
    other = sd.StableDiffusion(model.components)
    model.unet.mid_block.compile(backend="eager")  # a part is enough
    with (
        torch.compiler.set_stance("force_eager"),
        model.edit("unet.conv_in", lambda x, at: x * 0.5),
    ):
        latent(other, 1)
    return 0


def a_network_is_replaced(request: pytest.FixtureRequest) -> int:
    """By itself compiled, or by another: recordings and edits would go on at the old one."""
    model = tiny_model()
    model.unet = torch.compile(model.unet, backend="eager")
    return 0


def a_run_is_given_up(request: pytest.FixtureRequest) -> int:
    """Its edit leaves nothing behind, while its generator lives and afterwards."""
    model = tiny_model()
    plain = latent(model, 1)
    with model.edit("unet.conv_in", lambda x, at: x * 0.5):
        steps = model.steps(model.prompt("a red circle"), model.noise(1), **SETTINGS)
        next(steps)
    assert torch.equal(latent(model, 1), plain)
    del steps
    assert torch.equal(latent(model, 1), plain)
    return 0
