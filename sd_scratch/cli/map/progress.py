"""A bar that counts steps, and one line that says beforehand how long the run will take."""

import time
from collections.abc import Callable
from pathlib import Path

from sd_scratch.cli.console import progress_bar
from sd_scratch.errors import log

LONG = 10.0  # seconds from which on it is said
READ = 1e-3  # seconds: no step is made faster


class Progress:
    """For `pictures` pictures of `steps` steps each; `update` is an `on_step`. `folder` is where the run
    can be resumed.

    The time of a step is the one from the first step's end to the second's, since the first has a model
    to warm up.
    """

    def __init__(self, pictures: int, steps: int, folder: Callable[[], Path] | None = None) -> None:
        self.pictures, self.steps, self.folder = pictures, steps, folder
        self._done, self._told, self._last = 0, False, float("nan")

    def __enter__(self) -> "Progress":
        self._bar = progress_bar(self.pictures * self.steps, "steps")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, pictures: int) -> None:
        now = time.perf_counter()
        took = now - self._last
        self._last = now
        self._done += pictures
        self._bar.update(pictures)
        if not self._told and took > READ:  # no number compares larger than NaN
            self._told = True
            left = took / pictures * (self.pictures * self.steps - self._done)
            if left >= LONG:
                resume = f"; --resume -o {self.folder()} goes on if it stops" if self.folder else ""
                log.info(
                    f"about {duration(left)} to go: {self.pictures} pictures of {self.steps} steps, "
                    f"{took / pictures:.2g} s a step{resume}"
                )


def duration(seconds: float) -> str:
    """``40 s``, ``7 min``, ``2 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
