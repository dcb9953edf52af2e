"""What reaches a terminal, and streams that are not there."""

import subprocess
import sys

import pytest
import torch

from sd_scratch.cli.console import escaped, one_line, report_error

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
    assert capsys.readouterr().err.startswith(
        "error: out of memory - lower what is computed at once"
    )


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
