"""The fastest kernels for a model on this machine, measured once and remembered.

The choice is kept in the user's cache under the processor, PyTorch, the number of threads and the shapes, and not
measured again: the same machine gives the same bits from the first picture on. Small models, other devices
and half precision follow a fixed rule.
"""

import contextlib
import hashlib
import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from sd_scratch.checkpoints import Components
from sd_scratch.checkpoints.hashes import cache_file
from sd_scratch.errors import UsageError, log
from sd_scratch.limits import TUNING
from sd_scratch.networks.kernels import (
    Cells,
    Shape,
    by_rule,
    choose_cells,
    is_small,
    linear_shapes,
    measure,
    measure_cells,
)
from sd_scratch.networks.layers import Linear, computing_type

EFFORTS = {"quick": (3, 2.0), "full": (7, 120.0)}  # rounds, seconds
BRANCHES = 2  # of a guided call
CPUINFO = Path("/proc/cpuinfo")
SMALLER = ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")  # let a processor play a smaller one


@dataclass
class Choices:
    """Measured choices: whether each shape is faster as a convolution, and the same for a model's layers in
    order, to save finding its shapes; by the middle's channels, for how many cells a convolution is faster
    another way."""

    shapes: dict[Shape, bool] = field(default_factory=dict)
    models: dict[str, list[bool]] = field(default_factory=dict)
    cells: dict[int, Cells] = field(default_factory=dict)


def convolutions_are_fast(device: torch.device, dtype: torch.dtype) -> bool:
    """oneDNN has fast fp32 convolutions for every processor; PyTorch's BLAS has not."""
    onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(onednn and device.type == "cpu" and dtype == torch.float32)


def tune(
    components: Components,
    effort: str = "quick",
    width: int | None = None,
    height: int | None = None,
) -> None:
    """Choose the kernels of a model's layers for pictures of this size, the model's own by default.

    `effort` is "quick" (measure what is unknown, in two seconds), "full" (measure everything anew,
    thoroughly) or "off" (the rule of `sd_scratch.networks.kernels`). The rule also applies if the machine is
    too busy to measure, or if nothing can be stored: a different choice next time would change the last bit
    of a picture. Missing choices are measured the next time. Call it before a model is made of the
    components. Raises UsageError for another effort.
    """
    if effort not in TUNING:
        raise UsageError(f"tuning {effort!r} is unknown - use {', '.join(TUNING)}")
    unet = components.unet
    fast = convolutions_are_fast(unet.conv_in.weight.device, computing_type(unet))
    if effort == "off" or not fast or is_small(unet):
        return
    known = Choices() if effort == "full" else read_choices()
    key, channels = (
        model_key(components, width, height),
        components.config.unet.block_out_channels[-1],
    )
    every = linears(components)
    if len(known.models.get(key, ())) != len(every) or channels not in known.cells:
        _measure(components, known, key, effort, width, height)
        if not write_choices(known):
            log.debug("kernels cannot be remembered: the rule is followed")
            return
    for network in components.networks.values():
        choose_cells(network, known.cells.get(channels, Cells(0, 0)))
    for layer, choice in zip(every, known.models.get(key, [None] * len(every)), strict=True):
        layer.by_convolution = choice


def _measure(
    components: Components,
    known: Choices,
    key: str,
    effort: str,
    width: int | None,
    height: int | None,
) -> None:
    """Measure what is unknown, and add what the times agree on: the model's layers together."""
    (rounds, seconds), began = EFFORTS[effort], perf_counter()
    channels = components.config.unet.block_out_channels[-1]
    if channels not in known.cells:
        known.cells[channels] = measure_cells(components.unet, BRANCHES, rounds)
    layers = shapes_of(components, width, height)
    missing = {shape: same for shape, same in layers.items() if shape not in known.shapes}
    found = measure(missing, rounds, seconds - (perf_counter() - began))
    log.debug(f"kernels were measured for {len(found)} of {len(missing)} shapes")
    known.shapes |= {shape: choice for shape, choice in found.items() if choice is not None}
    if None in found.values():
        return
    rule = {id(m): by_rule(n) for n in components.networks.values() for m in n.modules()}
    known.shapes |= {
        shape: rule[id(same[0])] for shape, same in missing.items() if shape not in found
    }
    chosen = {id(layer): known.shapes[shape] for shape, same in layers.items() for layer in same}
    known.models[key] = [chosen.get(id(layer), rule[id(layer)]) for layer in linears(components)]


def linears(components: Components) -> list[Linear]:
    """All linear layers of a model, in order."""
    modules = (m for network in components.networks.values() for m in network.modules())
    return [module for module in modules if isinstance(module, Linear)]


def model_key(components: Components, width: int | None, height: int | None) -> str:
    """Ten hex digits of what the shapes of a model's calls depend on."""
    text = repr(
        (components.config, list(components.networks), len(linears(components)), width, height)
    )
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def shapes_of(
    components: Components, width: int | None, height: int | None
) -> dict[Shape, list[Linear]]:
    """The linear layers of text encoder and U-Net by the shapes of a guided call. The autoencoder's few run
    once a picture."""
    config = components.config
    h, w = ((side or config.sample_size) // config.vae.downscale for side in (height, width))
    tokens = config.text.max_position_embeddings
    return linear_shapes(components.text, components.unet, tokens, (h, w), BRANCHES)


def this_machine() -> dict[str, Any]:
    """The machine and settings for which a measured choice holds."""
    return {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **{name: os.environ[name] for name in SMALLER if name in os.environ},
    }


def processor() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in CPUINFO.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def choices_file() -> Path:
    """One file for each machine that shares the user's home. Raises RuntimeError if the home is unknown."""
    key = hashlib.sha256(json.dumps(this_machine()).encode()).hexdigest()[:10]
    return cache_file().with_name(f"kernels-{key}.json")


def read_choices() -> Choices:
    """The choices measured on this machine; nothing if the file is damaged or of another machine."""
    damage = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError)
    with contextlib.suppress(*damage):
        data = json.loads(choices_file().read_text(encoding="utf-8"))
        if data["machine"] == this_machine():
            shapes = {
                Shape(*map(int, key.split("x"))): choice == 1
                for key, choice in data["convolution"].items()
            }
            models = {key: [bit == "1" for bit in bits] for key, bits in data["models"].items()}
            cells = {int(key): Cells(*map(int, both)) for key, both in data["cells"].items()}
            return Choices(shapes, models, cells)
    return Choices()


def write_choices(choices: Choices) -> bool:
    """Store them; returns whether that was possible."""
    data = {
        "machine": this_machine(),
        "convolution": {
            "x".join(map(str, shape)): int(choice)
            for shape, choice in sorted(choices.shapes.items())
        },
        "models": {key: "".join("01"[bit] for bit in bits) for key, bits in choices.models.items()},
        "cells": choices.cells,
    }
    try:
        file = choices_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(data, indent=1), encoding="utf-8")
        os.replace(part, file)
    except (OSError, RuntimeError):
        return False
    return True
