"""Devices and number formats by name."""

import torch

from sd_scratch.errors import UsageError
from sd_scratch.limits import DTYPES

SHORT = {"fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}


def available_devices() -> list[str]:
    """Devices that this machine and this build of PyTorch support, the fastest first."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return cuda + (["mps"] if torch.backends.mps.is_available() else []) + ["cpu"]


def find_device(name: str | torch.device = "auto") -> torch.device:
    """The device of that name, or the fastest one for ``"auto"``.

    Raises UsageError for a device that does not exist: the wish is never replaced.
    """
    available = available_devices()
    if name == "auto":
        return torch.device(available[0])
    wanted = "cuda:0" if str(name) == "cuda" else str(name)
    if wanted in available:
        return torch.device(wanted)
    built = "" if torch.version.cuda or not wanted.startswith("cuda") else " (a build without CUDA)"
    raise UsageError(
        f"device {name} - not available with PyTorch {torch.__version__}{built} - "
        f"there is {', '.join(available)}"
    )


def find_dtype(name: str | torch.dtype = "float32") -> torch.dtype:
    """A floating-point type of the networks, by its name or a short one. Raises UsageError."""
    text = str(name).removeprefix("torch.")
    text = SHORT.get(text, text)
    if text not in DTYPES:
        raise UsageError(f"dtype {name!r} is unknown - choose from {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, text)
    return dtype
