"""Devices, threads and number formats, checked before any weights are read. Imports PyTorch."""

import os

import torch

from sd_scratch.errors import ScratchError, UsageError, log
from sd_scratch.pipeline.device import find_device, find_dtype


def choose_device(name: str | None) -> torch.device:
    """The device that ``--device`` names, or the fastest one. Raises UsageError."""
    try:
        return find_device(name or "auto")
    except UsageError as error:
        raise UsageError(f"--{error}") from None


def choose_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The floating-point type of that name, or float32."""
    if name == "float16" and device.type == "cpu":
        log.warning("float16 is slow and inexact on a CPU: float32 or bfloat16 is meant for it")
    return find_dtype(name or "float32")


def set_threads(threads: int | None) -> None:
    """PyTorch's threads on the CPU; None leaves its own choice, one per core."""
    if threads is not None:
        torch.set_num_threads(threads)


def place_among_processes() -> tuple[int, int]:
    """This process' number and how many there are, as torchrun tells; alone, 0 of 1."""
    try:
        rank, count = (int(os.environ.get(k, d)) for k, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
    except ValueError:
        rank, count = -1, 0
    if not 0 <= rank < count:
        raise ScratchError("RANK and WORLD_SIZE in the environment are no numbers of a run")
    return rank, count
