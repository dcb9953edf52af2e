"""What a person sees while a command runs: messages and progress, all of it on standard error.

Every floor says what it has to say through `logging`; here it is decided what that looks like.
"""

import logging
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from sd_scratch.errors import MemoryShortage, NotFinite, ScratchError, UsageError, log, told
from sd_scratch.stop import Stop

if TYPE_CHECKING:
    from tqdm import tqdm

PREFIXES = {logging.DEBUG: "", logging.INFO: "", logging.WARNING: "warning: "}
INTERRUPTED = 130  # 128 + the signal's number, as shells say it
LOWER = "--width, --height, --batch-size (--batch, --batch-count), or --dtype bfloat16"
LEVERS = {"dtype": "--dtype float32", "guidance": "--cfg-scale"}
# All but tab and line feed of the C0 and C1 sets, lone surrogates, line ends, turns of direction.
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class _OneLine(logging.Handler):
    """Messages as single lines; above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        text = PREFIXES.get(record.levelno, "error: ") + one_line(record.getMessage())
        progress = sys.modules.get("tqdm")
        if progress is None:
            print(text, file=sys.stderr)
        else:
            progress.tqdm.write(text, file=sys.stderr)


@contextmanager
def console(*, quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """Send this package's messages to standard error, and hide other libraries' warnings."""
    before, level = (log.handlers, log.propagate), log.level
    log.handlers, log.propagate = [_OneLine()], False
    log.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    try:
        with warnings.catch_warnings():
            if not verbose:
                warnings.simplefilter("ignore")
            yield
    finally:
        log.handlers, log.propagate = before
        log.setLevel(level)


def report_error(error: Exception, debug: bool = False) -> int:
    """One line on standard error, or with `debug` the traceback too. Returns the exit status."""
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    error = told(error)
    line = str(error)
    if isinstance(error, MemoryShortage):
        line += f" (lower {LOWER})"
    elif isinstance(error, NotFinite) and error.lever:
        line += f" ({LEVERS[error.lever]})"
    elif not isinstance(error, ScratchError):
        line = f"{type(error).__name__}: {line} (run again with --debug for the traceback)"
    print(f"error: {one_line(line)}", file=sys.stderr)
    return 2 if isinstance(error, UsageError) else 1


def one_line(text: str) -> str:
    return escaped(" ".join(text.split()))


def escaped(text: str) -> str:
    """A text without what a terminal obeys: control characters, and those that turn the direction."""
    return OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class Escaping:
    """A stream whose texts come from files of strangers, names of tensors and settings among them."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(escaped(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def progress_bar(total: int, description: str, *, bar_format: str | None = None) -> "tqdm[None]":
    """A bar with the time left on standard error; nothing where that is no terminal, or with -q."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() and log.isEnabledFor(logging.INFO)
    return tqdm(
        total=total,
        desc=description,
        file=sys.stderr,
        disable=not shown,
        dynamic_ncols=True,
        bar_format=bar_format,
    )


def stop_on_ctrl_c() -> AbstractContextManager[Stop]:
    """Inside the ``with`` block the first Ctrl-C only asks, and says so; the next one interrupts."""
    text = "\nstopping after this step; Ctrl-C again stops at once"
    return Stop().on_signals(signal.SIGINT, tell=lambda: print(text, file=sys.stderr))


class WorkBar:
    """The same for steps of several sizes, on pictures of several: the time left goes by their work.

    Args:
        work: of all steps, in any unit.
        steps: how many they are.
    """

    def __init__(self, work: int, steps: int) -> None:
        line = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        self.steps, self.done = steps, 0
        self.bar = progress_bar(work, f"step 0/{steps}", bar_format=line)

    def update(self, work: int, steps: int) -> None:
        self.done += steps
        self.bar.set_description_str(f"step {self.done}/{self.steps}", refresh=False)
        self.bar.update(work)

    def close(self) -> None:
        self.bar.close()
