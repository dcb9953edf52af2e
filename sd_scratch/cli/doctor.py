"""``sd-scratch doctor``: what this machine has, for a person and for a bug report."""

import argparse
import json
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import sd_scratch

NEEDED = ("torch", "safetensors", "numpy", "pillow", "tqdm", "regex", "ftfy", "huggingface_hub")
OPTIONAL = ("diffusers", "transformers")
GIB = 2**30

Report = dict[str, dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    report = {
        "versions": versions(),
        "machine": machine(),
        "devices": devices(),
        "kernels": kernels(),
        "disk": disk(),
        "models": models(),
        "samplers": samplers(),
        "schedules": schedules(),
    }
    print(json.dumps(report, indent=2) if args.json else as_text(report))
    return 0


def versions() -> dict[str, Any]:
    found = {"sd_scratch": sd_scratch.__version__, "python": platform.python_version()}
    for name in (*NEEDED, *OPTIONAL):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing" if name in NEEDED else "not installed (optional)"
    return found


def machine() -> dict[str, Any]:
    import torch

    from sd_scratch.checkpoints.memory import available_memory

    free = available_memory()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": usable,
        "threads": torch.get_num_threads(),
        "free memory GiB": "unknown" if free is None else round(free / GIB, 1),
    }


def devices() -> dict[str, Any]:
    import torch

    from sd_scratch.pipeline.device import available_devices

    found: dict[str, Any] = {"cpu": "always there"}
    for name in available_devices():
        if name.startswith("cuda"):
            properties = torch.cuda.get_device_properties(name)
            found[name] = f"{properties.name}, {properties.total_memory / GIB:.0f} GiB"
        elif name != "cpu":
            found[name] = "available"
    if not torch.version.cuda:
        found["cuda"] = "not in this build of PyTorch"
    return found


def kernels() -> dict[str, Any]:
    """What was measured on this machine (``--tune``)."""
    from sd_scratch.pipeline.tuning import choices_file, processor, read_choices

    choices = read_choices()
    known = choices.shapes
    if not known:
        return {
            "processor": processor(),
            "linear layers": "by the fixed rule: nothing was measured yet",
        }
    convolutions = sum(known.values())
    return {
        "processor": processor(),
        "linear layers": f"of {len(known)} shapes {convolutions} are faster as convolutions,"
        f" {len(known) - convolutions} as products",
        "3x3 convolutions": "; ".join(
            f"of {channels} channels as products up to {product} cells,"
            + (f" in tiles from {tiles} on" if tiles else " never in tiles")
            for channels, (product, tiles) in choices.cells.items()
        ),
        "measured in": str(choices_file()),
    }


def disk() -> dict[str, Any]:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    nearest = next(path for path in (cache, *cache.parents) if path.exists())
    return {
        "free here GiB": round(shutil.disk_usage(".").free / GIB, 1),
        "hub cache": str(cache) + ("" if cache.exists() else " (not made yet)"),
        "free for the cache GiB": round(shutil.disk_usage(nearest).free / GIB, 1),
        "hub": "offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else constants.ENDPOINT,
    }


def models() -> dict[str, Any]:
    from sd_scratch.checkpoints.hub import list_cached
    from sd_scratch.checkpoints.shipped import list_shipped

    found: dict[str, Any] = dict.fromkeys(list_shipped(), "shipped")
    for model in list_cached():
        found[model.repo] = f"in the hub cache, {model.size / 1e9:.1f} GB"
    return found or {"none": "no model is shipped with this copy, and none is in the hub cache"}


def samplers() -> dict[str, Any]:
    from sd_scratch.diffusion.samplers import SAMPLERS

    return {
        sampler.name: f"{sampler.description} (options: {', '.join(sampler.options)})"
        for sampler in SAMPLERS.values()
    }


def schedules() -> dict[str, Any]:
    from sd_scratch.diffusion.spacing import MODIFIERS, OWN, SIGMA_SPACINGS, TIMESTEP_SPACINGS

    return {
        OWN: "the one that the model's configuration names",
        **dict.fromkeys(TIMESTEP_SPACINGS, "of timesteps"),
        **dict.fromkeys(SIGMA_SPACINGS, "of sigmas, between the same ends"),
        **{f"...+{name}": f"behind any of these: {what}" for name, what in MODIFIERS.items()},
    }


def as_text(report: Report) -> str:
    lines = []
    for title, values in report.items():
        lines.append(title)
        lines += [f"  {key:24} {value}" for key, value in values.items()]
    return "\n".join(lines)
