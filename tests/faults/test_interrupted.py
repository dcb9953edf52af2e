"""Real processes that are asked to end, or that meet, while an output of several files is written."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sd_scratch.checkpoints import load_components, save_folder
from sd_scratch.cli import main
from tests.tiny import tiny_components

# A process that stops at a write to the disk, says so, and goes on when it is told or signalled.
WAITING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
real, left = os.fsync, [int(sys.argv[1])]
def fsync(handle):
    left[0] -= 1
    if left[0] == 0:
        print("here", flush=True)
        sys.stdin.readline()
    real(handle)
os.fsync = fsync
from sd_scratch.cli import main
sys.exit(main(sys.argv[2:]))
"""
KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
MERGE = ["weights", "convert", "model", "new.safetensors", "--lora", "lora.safetensors"]
TRACE = ["trace", "a", "-m", "model", "--device=cpu", "--steps=1", "-W=16", "-H=16"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_folder(tiny_components(), "model")
    weight = load_components("model").unet.down_blocks[0].attentions[0].transformer_blocks[0]
    width = weight.attn1.to_q.weight.shape[0]
    save_file(
        {
            f"{KEY}.lora_down.weight": torch.ones(1, width),
            f"{KEY}.lora_up.weight": torch.ones(width, 1),
        },
        "lora.safetensors",
    )
    shutil.copytree("model", "old")
    Path("old/notes.txt").write_text("mine")
    Path("old/tokenizer/added_tokens.json").write_text('{"<old>": 49408}')


def files() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@contextmanager
def waiting(write: int, arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process in its `write`-th write to the disk; after the block it has ended."""
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, str(write), *arguments],
        env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        yield process


@pytest.mark.parametrize(
    ("number", "write", "arguments"),
    [
        (signal.SIGINT, 2, MERGE),
        (signal.SIGTERM, 4, ["weights", "convert", "model", "old", "--overwrite"]),
        (signal.SIGTERM, 3, [*TRACE, "--tensors", "unet.h", "-o", "traced"]),
    ],
    ids=["merge", "convert", "trace"],
)
def test_nothing_is_half_written(number: signal.Signals, write: int, arguments: list[str]) -> None:
    before = files()
    with waiting(write, arguments) as process:
        process.send_signal(number)
        _, error = process.communicate()
    assert process.returncode == (130 if number == signal.SIGINT else 128 + number)
    assert "Traceback" not in error
    assert files() == before


def test_of_two_that_write_over_one_model_the_second_says_so(capsys) -> None:
    convert = ["weights", "convert", "model", "old", "--overwrite", "--dtype"]
    with waiting(3, [*convert, "float16"]) as process:
        assert main([*convert, "bfloat16"]) == 1
        assert "old - another process writes into it" in capsys.readouterr().err
        process.communicate("\n")
    assert process.returncode == 0
    assert main(["weights", "convert", "model", "new", "--dtype", "float16"]) == 0
    after = files()
    for path in [path for path in after if path.parts[0] == "new"]:
        assert after[Path("old", *path.parts[1:])] == after[path]
    assert Path("old/notes.txt").exists()
    assert not Path("old/tokenizer/added_tokens.json").exists()  # of another vocabulary
