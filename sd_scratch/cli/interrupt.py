"""Ctrl-C while pictures are made."""

import signal
import sys
from contextlib import AbstractContextManager

from sd_scratch.stop import Stop


def stop_on_ctrl_c() -> AbstractContextManager[Stop]:
    """Inside the ``with`` block the first Ctrl-C only asks, and says so; the next one interrupts."""
    return Stop().on_signals(signal.SIGINT, tell=_tell)


def _tell() -> None:
    print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr)
