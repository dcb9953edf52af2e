"""What a training run writes down: one JSON object a line, and TensorBoard where it is installed."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from sd_scratch.errors import ScratchError, log
from sd_scratch.files import explained, open_file, write_file

FILE = "log.jsonl"


class Journal:
    """Appends rows of figures to ``log.jsonl`` in a folder; a context manager.

    A resumed run appends. Rows that were written after the state it resumes from are dropped, so
    that every step is there once. A journal that cannot be written ends no run: its rows are held back,
    a warning is given, and every later row tries again. A silent journal writes nothing.
    """

    def __init__(
        self, folder: Path, from_step: int = 0, held: str = "", silent: bool = False
    ) -> None:
        """`held` is what an earlier process could not write, from the state that it left."""
        self._path, self._silent = folder / FILE, silent
        self._handle: int | None = None
        self._kept = b""  # what the file begins with
        self._size = 0  # of the file when all was well
        self._held = b""  # rows that are not in the file yet
        self._failing = False
        self._board: Any = None
        if silent:
            return
        rows = read_journal(folder) if self._path.exists() else []
        kept = [_line(row) for row in rows if row["step"] <= from_step]
        late = [line for line in held.encode().splitlines(keepends=True) if line not in kept]
        self._kept = b"".join(kept + late)
        self._flush()
        self._board = _tensorboard(folder, from_step)

    def write(self, step: int, **figures: Any) -> None:
        """One row. Rounded, because people read the file and need no more digits."""
        if self._silent:
            return
        row = {key: round(x, 6) if isinstance(x, float) else x for key, x in figures.items()}
        self._held += _line({"step": step, **row})
        self._flush()
        numbers = {key: value for key, value in row.items() if isinstance(value, int | float)}
        try:
            for key, value in numbers.items() if self._board is not None else ():
                self._board.add_scalar(key, value, step)
        except OSError as error:
            log.warning("TensorBoard gets no more figures: %s", error.strerror or error)
            self._board = None

    @property
    def held(self) -> str:
        """The rows that could not be written yet."""
        return ((b"" if self._handle is not None else self._kept) + self._held).decode()

    def _flush(self) -> None:
        """Write all that is held back, or leave the file as it was."""
        try:
            if self._handle is None:
                write_file(self._path, self._kept, overwrite=True)
                self._handle = os.open(self._path, os.O_WRONLY | os.O_APPEND)
                self._size = len(self._kept)
            rest = memoryview(self._held)
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except (OSError, ScratchError) as error:
            if self._handle is not None:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._handle, self._size)
            if not self._failing:
                told = explained(self._path, error) if isinstance(error, OSError) else error
                log.warning("%s - the run goes on, its rows are held back", told)
            self._failing = True
        else:
            self._size += len(self._held)
            self._held, self._failing = b"", False

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._silent:
            self._flush()
        if self._held:
            missing = self._held.count(b"\n")
            log.warning(
                "%s lacks the last %d rows - resume the run to write them", self._path, missing
            )
        if self._handle is not None:
            os.close(self._handle)
        if self._board is not None:
            self._board.close()


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run's journal, without damaged lines and a last one that was cut short. Raises
    `ScratchError` when it cannot be read."""
    path = folder / FILE
    with open_file(path) as file:
        lines = file.read().split(b"\n")
    rows = [_row(line) for line in lines]
    if broken := sum(row is None for row, line in zip(rows[:-1], lines[:-1], strict=True) if line):
        log.warning("%s - damaged lines are left out: %d", path, broken)
    return [row for row in rows if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _tensorboard(folder: Path, from_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    try:
        return SummaryWriter(str(folder / "tensorboard"), purge_step=from_step)
    except OSError as error:
        log.warning("TensorBoard gets no figures: %s", error.strerror or error)
        return None
