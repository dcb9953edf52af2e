"""Ctrl-C once: stop where nothing is lost. Ctrl-C twice: stop."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def endings() -> list[signal.Signals]:
    """The signals that ask a program to end: termination, and a hang-up unless it is ignored (nohup)."""
    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    ignored = hang_up is None or signal.getsignal(hang_up) == signal.SIG_IGN
    return [signal.SIGTERM] if ignored or hang_up is None else [signal.SIGTERM, hang_up]


class Stop:
    """Whether a run should end at the next place where it loses nothing."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def on_signals(
        self, *signals: signal.Signals, tell: Callable[[], None] | None = None
    ) -> Iterator["Stop"]:
        """The first of `signals` inside the ``with`` block only asks, and `tell` is called; a Ctrl-C
        after that interrupts."""
        if threading.current_thread() is not threading.main_thread():  # signals belong to that one
            yield self
            return

        def ask(number: int, frame: object) -> None:
            self.asked = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if tell is not None:
                tell()

        before = {name: signal.signal(name, ask) for name in signals}
        try:
            yield self
        finally:
            for name, handler in before.items():
                if handler is not None:  # None: it was not set from Python
                    signal.signal(name, handler)
