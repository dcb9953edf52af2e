"""Free memory, and a one-line error if it does not suffice."""

from contextlib import suppress
from pathlib import Path

import torch

from sd_scratch.errors import MemoryShortage

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")  # of a container: its limit, and what of it is taken


def available_memory(device: torch.device | str = "cpu") -> int | None:
    """Bytes that can still be allocated on a device, without swapping; None if unknown.

    On a CPU it is Linux's estimate (MemAvailable), or the rest of a container's limit.
    """
    device = torch.device(device)
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return _of_linux() if device.type == "cpu" else None


def require_memory(needed: int, what: str, device: torch.device, advice: str) -> None:
    """Raise MemoryShortage if `needed` bytes are more than the device has free."""
    free = available_memory(device)
    if free is not None and needed > free:
        raise MemoryShortage(
            f"{what} {show_gib(needed)} and {show_gib(free)} of memory are free on {device} - {advice}"
        )


def show_gib(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB"


def _of_linux() -> int | None:
    free: list[int] = []
    with suppress(OSError, ValueError, IndexError):
        lines = MEMINFO.read_text().splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError, IndexError):
        limit, taken = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        statistics = dict(
            line.split() for line in (CGROUP / "memory.stat").read_text().splitlines()
        )
        free.append(limit - taken + int(statistics.get("inactive_file", 0)))
    return min(free, default=None)
