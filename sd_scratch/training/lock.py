"""One run at a time in a folder."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from sd_scratch.errors import ScratchError, UsageError, log
from sd_scratch.files import CAUSES

LOCK = ".lock"
UNFINISHED = ".*.part"  # what `sd_scratch.files` leaves behind when a process is killed
TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold `folder`, which is made where it is missing, for this process. The system lets it go
    when the process ends, however that happens.

    Raises `UsageError` when another process holds it, `ScratchError` when nothing can be written
    there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except FileExistsError:
        raise UsageError(f"{folder} is a file, not a folder - name another one") from None
    except OSError as error:
        cause = CAUSES.get(error.errno or 0) or f"{error.strerror}: choose another folder"
        raise ScratchError(f"cannot write into {folder} - {cause}") from None
    try:
        _hold(handle, folder)
        for part in folder.glob(UNFINISHED):
            with contextlib.suppress(OSError):
                part.unlink()
        yield
    finally:
        os.close(handle)


def _hold(handle: int, folder: Path) -> None:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            raise UsageError(
                f"another process trains into {folder} - wait for it, or name another folder"
            ) from None
        # Some network drives have no locks: nothing is known about other runs there.
        log.warning("%s cannot be locked (%s): start no second run in it", folder, error.strerror)
