"""What a training run writes down: one JSON object a line, and TensorBoard where it is installed."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any


class Journal:
    """Appends rows of figures to ``log.jsonl`` in a folder; a context manager.

    A resumed run appends. Rows that were written after the state it resumes from are dropped, so
    that every step is there once. A silent journal writes nothing.
    """

    def __init__(self, folder: Path, from_step: int = 0, silent: bool = False) -> None:
        self._board: Any = None
        if silent:
            self._file = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "log.jsonl"
        _drop_after(path, from_step)
        self._file = path.open("a", encoding="utf-8")
        self._board = _tensorboard(folder, from_step)

    def write(self, step: int, **figures: Any) -> None:
        """One row. Rounded, because nobody needs more digits and the file is read by people."""
        row = {key: round(x, 6) if isinstance(x, float) else x for key, x in figures.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()
        if self._board is not None:
            for key, value in row.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(key, value, step)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run's journal; a last line that was cut short is left out."""
    rows = []
    for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _drop_after(path: Path, step: int) -> None:
    if path.exists():
        rows = [row for row in read_journal(path.parent) if row["step"] <= step]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _tensorboard(folder: Path, from_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=from_step)
