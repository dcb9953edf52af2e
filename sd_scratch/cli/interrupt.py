"""Ctrl-C once: stop where nothing is lost. Ctrl-C twice: stop."""

import signal
import sys
import threading
from types import FrameType, TracebackType


class StopRequest:
    """Inside the ``with`` block the first SIGINT only sets `wanted`; the next ones interrupt."""

    def __init__(self) -> None:
        self.wanted = False
        self._before: signal._HANDLER = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # signals belong to that one
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr)
