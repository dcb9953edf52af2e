"""A training run on the disk: numbered files that hold all that is needed to go on exactly.

A file is written whole or not at all, and the newest two are kept, so that a cut, a crash or a full
disk costs at most the steps since the last one.
"""

import contextlib
import io
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.files import write_file

PATTERN = "state-*.pt"
KEEP = 2
FORMAT = 1


@dataclass
class RunState:
    """Everything that a step reads or changes, as tensors, numbers and strings.

    `settings` is what the run was started with; `step` and `seconds` are what has been done and the
    training time that it took.
    """

    settings: dict[str, Any]
    step: int
    seconds: float
    model: dict[str, Any]
    ema: dict[str, Any]
    optimizer: dict[str, Any]
    generator: torch.Tensor
    extra: dict[str, Any] = field(default_factory=dict)


def save_state(folder: Path, state: RunState) -> Path:
    """Write `state` into `folder`, then remove all but the newest `KEEP` files.

    Raises `ScratchError` when it cannot be written; the files that were there are still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **vars(state)}, buffer)
    path = folder / f"state-{state.step:09d}.pt"
    write_file(path, buffer.getvalue(), overwrite=True)
    for old in sorted(folder.glob(PATTERN))[:-KEEP]:
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def load_state(folder: Path) -> RunState | None:
    """The newest state in `folder` that can be read, or None where there is none.

    Raises `ScratchError` when there are states and none of them can be read.
    """
    paths = sorted(folder.glob(PATTERN), reverse=True)
    for path in paths:
        with contextlib.suppress(OSError, RuntimeError, EOFError, ValueError, pickle.PickleError):
            saved = torch.load(path, map_location="cpu", weights_only=True)
            if saved.pop("format", None) == FORMAT:
                return RunState(**saved)
    if paths:
        raise ScratchError(
            f"no state in {folder} can be read - damaged, or written by another version"
            " - train into another folder"
        )
    return None


def check_settings(saved: dict[str, Any], asked: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with a run that was started differently, and say what is different."""
    differences = [
        f"{key} was {saved.get(key)!r} and is now {asked.get(key)!r}"
        for key in sorted(saved.keys() | asked.keys())
        if saved.get(key) != asked.get(key)
    ]
    if differences:
        raise UsageError(
            f"cannot resume {folder} - {'; '.join(differences)}"
            " - use the same settings, or train into another folder",
        )
