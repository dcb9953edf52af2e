"""Devices, threads and number formats, checked before any weights are read. Imports PyTorch."""

import logging

import torch

from sd_scratch.errors import UsageError

log = logging.getLogger(__name__)


def available_devices() -> list[str]:
    """Devices that this machine and this build of PyTorch can use, the fastest first."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return cuda + (["mps"] if torch.backends.mps.is_available() else []) + ["cpu"]


def choose_device(name: str | None) -> torch.device:
    """The device of that name, or the fastest one.

    Raises ScratchError for a device that is not there: one that was asked for is never replaced.
    """
    available = available_devices()
    if name is None:
        return torch.device(available[0])
    wanted = "cuda:0" if name == "cuda" else name
    if wanted in available:
        return torch.device(wanted)
    built = "" if torch.version.cuda or not name.startswith("cuda") else " (a build without CUDA)"
    raise UsageError(
        f"--device {name} - not available with PyTorch {torch.__version__}{built} - "
        f"there is {', '.join(available)}",
    )


def choose_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The floating-point type of that name, or float32."""
    if name == "float16" and device.type == "cpu":
        log.warning("float16 is slow and inexact on a CPU: float32 or bfloat16 is meant for it")
    dtype: torch.dtype = getattr(torch, name or "float32")
    return dtype


def set_threads(threads: int | None) -> None:
    """PyTorch's threads on the CPU; None leaves its own choice, one per core."""
    if threads is not None:
        torch.set_num_threads(threads)
