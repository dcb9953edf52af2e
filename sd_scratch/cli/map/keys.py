"""Single keys from a terminal, without waiting for the end of a line."""

import os
import sys
from collections.abc import Callable, Iterator

from sd_scratch.errors import UsageError

ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}  # after ESC [ or ESC O
WINDOWS_ARROWS = {"H": "up", "P": "down", "M": "right", "K": "left"}  # after NUL or \xe0
QUIT = ("q", "\x04", "\x1b", "")  # q, Ctrl-D, Escape alone, the end of the input


def read_keys() -> Iterator[str]:
    """Arrow keys as "up", "down", "left" and "right", others as they are, until q or Ctrl-D.

    Raises ScratchError (bad usage) where standard input is no terminal.
    """
    if not sys.stdin.isatty():
        raise UsageError("--interactive needs a terminal to read keys from")
    if sys.platform == "win32":
        import msvcrt

        yield from named(msvcrt.getwch)
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin, termios.TCSADRAIN)  # keys that were typed already count
        yield from named(typed().__next__)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def typed() -> Iterator[str]:
    """What is typed, a character at a time, and "" once it has ended.

    An Escape that comes alone ends it, too: it is the first character of an arrow key as well, but those
    send all of theirs at once.
    """
    while True:
        together = os.read(sys.stdin.fileno(), 1024).decode(errors="replace")
        if together in ("", "\x1b"):
            break
        yield from together
    while True:
        yield ""


def named(read: Callable[[], str]) -> Iterator[str]:
    """Characters to keys: what arrow keys send is put together."""
    while True:
        key = read()
        if key == "\x1b" and (key := read()) in ("[", "O"):
            yield ARROWS.get(read(), "")
        elif key in ("\x00", "\xe0"):
            yield WINDOWS_ARROWS.get(read(), "")
        elif key in QUIT:
            return
        else:
            yield key
