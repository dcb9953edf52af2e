"""What a person sees while a command runs: messages and progress, all of it on standard error.

Every floor says what it has to say through `logging`; here it is decided what that looks like.
"""

import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sd_scratch.errors import ScratchError, UsageError

if TYPE_CHECKING:
    from tqdm import tqdm

PREFIXES = {logging.DEBUG: "", logging.INFO: "", logging.WARNING: "warning: "}

log = logging.getLogger("sd_scratch")


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
    if isinstance(error, ScratchError):
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    # PyTorch has an error of its own for its devices; by name, so as not to import it for that.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        line = (
            "out of memory - use a smaller --width, --height or --batch-size, or --dtype bfloat16"
        )
    else:
        line = f"{type(error).__name__}: {error} (run again with --debug for the traceback)"
    print(f"error: {one_line(line)}", file=sys.stderr)
    return 1


def one_line(text: str) -> str:
    return " ".join(text.split())


def progress_bar(total: int, description: str) -> "tqdm[None]":
    """A bar with the time left on standard error; nothing where that is no terminal, or with -q."""
    from tqdm import tqdm

    shown = sys.stderr.isatty() and log.isEnabledFor(logging.INFO)
    return tqdm(
        total=total, desc=description, file=sys.stderr, disable=not shown, dynamic_ncols=True
    )
