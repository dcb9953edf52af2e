"""What a user is meant to read: errors, and the messages of a logger."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("sd_scratch")  # of the whole package

OUT_OF_MEMORY = (  # in what PyTorch says, on a CPU, on CUDA and on MPS
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "_STATUS_ALLOC_FAILED",  # of cuDNN and cuBLAS
)


class ScratchError(Exception):
    """One line: what went wrong, where, the likely cause, and what to do."""


class UsageError(ScratchError):
    """What was asked for cannot be done, whatever the files and the machine: a value out of range, a name
    that is not known, two wishes that exclude each other. The caller can put it right."""


class MemoryShortage(ScratchError):
    """What was asked for needs more memory than there is: found out before it is tried, or on the way."""


class NotFinite(ScratchError):
    """Numbers of a run became NaN or infinite. `lever` is what to change: "dtype", "guidance" or nothing."""

    def __init__(self, message: str, lever: str = "") -> None:
        super().__init__(message)
        self.lever = lever


def told(error: Exception) -> Exception:
    """MemoryShortage for what an allocator says that has no memory left; any other error as it is."""
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)
    ):
        return MemoryShortage(
            "out of memory - make pictures smaller, fewer at a time, or compute in half precision"
        )
    return error


@contextmanager
def memory_told() -> Iterator[None]:
    """Raises MemoryShortage, in one line, where memory ends inside; also a decorator of functions."""
    try:
        yield
        return
    except (MemoryError, RuntimeError) as error:
        if (shortage := told(error)) is error:
            raise
    raise shortage  # out here, where the error no longer holds the tensors of its frames
