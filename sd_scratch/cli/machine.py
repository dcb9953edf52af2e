"""Devices, threads and number formats, checked before any weights are read. Imports PyTorch."""

import logging

import torch

from sd_scratch.errors import UsageError
from sd_scratch.pipeline.device import find_device, find_dtype

log = logging.getLogger(__name__)


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
