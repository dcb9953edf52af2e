"""Start-up and peak memory of whole processes: ``generate``, and a diffusers pipeline, in turn."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sd_scratch.checkpoints.load import read_layout
from sd_scratch.checkpoints.save import save_folder
from sd_scratch.cli.bench.rows import Row, row
from sd_scratch.cli.bench.subjects import RANDOM, is_comparable, subject
from sd_scratch.errors import ScratchError

GIB = 2**30
STARTUP, MEMORY = "startup", "memory"


def process_rows(args: argparse.Namespace, size: int, dtype: torch.dtype) -> list[Row]:
    """The rows that ``--startup`` and ``--memory`` ask for; memory is measured once.

    This process holds no model meanwhile: it would take memory from those that are measured.
    """
    wanted = {STARTUP: args.repeats if args.startup else 0, MEMORY: 1 if args.memory else 0}
    sides = ("ours", "theirs") if is_comparable(args.against) else ("ours",)
    found: dict[tuple[str, str], list[float]] = {}
    with _folder(args.model, dtype) as folder:
        for what, repeats in wanted.items():
            for _ in range(repeats):
                for side in sides:
                    value = measure(side, what, folder, args, size)
                    found.setdefault((what, side), []).append(value)
    labels = {STARTUP: ("start to first U-Net call", "s"), MEMORY: ("peak memory", "GiB")}
    return [
        row(*labels[what], found[what, "ours"], found.get((what, "theirs"), []))
        for what, repeats in wanted.items()
        if repeats
    ]


def measure(side: str, what: str, folder: Path, args: argparse.Namespace, size: int) -> float:
    """Run one side in a process of its own; seconds for start-up, GiB for memory."""
    options = [side, what, folder, size, args.steps, args.threads or 0, args.dtype or "float32"]
    started = time.time()
    command = [sys.executable, "-m", "sd_scratch.cli.bench.child", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ScratchError(f"the process that measures {side} {what} failed: {last}") from None
    found: float = report["first_call"] - started if what == STARTUP else report["peak"] / GIB
    return found


@contextmanager
def _folder(source: str, dtype: torch.dtype) -> Iterator[Path]:
    """A diffusers folder that both sides can load; made for the time being where there is none."""
    path = None if source in RANDOM else read_layout(source).path
    if path is not None and (path / "model_index.json").is_file():
        yield path
        return
    with tempfile.TemporaryDirectory() as made:
        save_folder(subject(source, torch.device("cpu"), dtype), Path(made) / "model")
        yield Path(made) / "model"
