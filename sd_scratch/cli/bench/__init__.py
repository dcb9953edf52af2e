"""``sd-scratch bench``: speed and memory, beside diffusers where it is installed.

Networks are timed in one process, ours and theirs in turn, on the same weights; start-up and peak
memory are of whole processes, in turn too.
"""

import argparse
import json
import subprocess
from datetime import date
from pathlib import Path

from sd_scratch.cli.options import a_name, add_device_arguments, integer, side
from sd_scratch.limits import TUNING
from sd_scratch.version import __version__

RANDOM_MODELS = ("random-sd15", "random-tiny")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "-m",
        "--model",
        type=a_name,
        default=RANDOM_MODELS[0],
        help="a model, or random weights of SD 1.5's size (random-sd15, the default)",
    )
    add("--against", choices=("diffusers", "nothing"), default="diffusers")
    add("--size", type=side, help="of the picture (default: the model's own)")
    add("--repeats", type=integer(1, 1000), default=5, help="(default 5)")
    add("--steps", type=integer(1, 1000), default=2, help="of the run for --memory (default 2)")
    add(
        "--tune",
        choices=TUNING,
        default=TUNING[0],
        help="how kernels are chosen, as for generate (default quick)",
    )
    add("--compile", action="store_true", help="time the compiled U-Net too")
    add(
        "--startup",
        action="store_true",
        help="time from process start to the first U-Net call, too",
    )
    add("--memory", action="store_true", help="peak memory of a whole run, too")
    add("--tensors", action="store_true", help="time taps that are off, and recording, too")
    add("--no-networks", action="store_true", help="leave out the networks' times")
    add("--json", action="store_true", help="print one JSON object")
    add_device_arguments(parser)


def run(args: argparse.Namespace) -> int:
    import torch

    from sd_scratch.cli.bench.networks import compiled_row, network_rows
    from sd_scratch.cli.bench.processes import process_rows
    from sd_scratch.cli.bench.rows import as_text
    from sd_scratch.cli.bench.subjects import load_subject, subject_config
    from sd_scratch.cli.doctor import kernels
    from sd_scratch.cli.machine import choose_device, choose_dtype, set_threads

    set_threads(args.threads)
    device = choose_device(args.device)
    dtype = choose_dtype(args.dtype, device)
    size = args.size or subject_config(args.model).sample_size
    rows = []
    if args.startup or args.memory:
        rows += process_rows(args, size, dtype)
    if args.tensors or args.compile or not args.no_networks:
        ours, theirs = load_subject(args, device, dtype)
    if not args.no_networks:
        rows += network_rows(ours, theirs, size, args.repeats)
    if args.tensors:
        from sd_scratch.cli.bench.tensors import tensor_rows

        rows += tensor_rows(ours, theirs, size, args.repeats)
    if args.compile:
        rows.append(compiled_row(ours, theirs, size, args.repeats))

    settings = {
        "model": args.model,
        "size": size,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": args.repeats,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "tune": args.tune,
        **kernels(),
        "date": date.today().isoformat(),
        "commit": commit(),
    }
    if args.json:
        print(json.dumps({"settings": settings, "rows": [vars(row) for row in rows]}, indent=2))
    else:
        print(as_text(settings, rows))
    return 0


def commit() -> str:
    """Of the source that runs, or this package's version where it is no clone."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return found.stdout.strip()
