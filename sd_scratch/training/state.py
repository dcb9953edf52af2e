"""A training run on the disk: numbered files that hold all that is needed to go on exactly.

A file is written whole or not at all, begins with a checksum of the rest, and the newest two are kept:
a cut, a crash, a full disk or a damaged file costs at most the steps since the last good one.
"""

import contextlib
import hashlib
import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import torch

from sd_scratch.errors import ScratchError, UsageError, log
from sd_scratch.files import open_file, write_file

PATTERN = "state-*.pt"
KEEP = 2
HEAD = b"sd_scratch training state 2\n"  # then the sha256 of what follows, 32 bytes
UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError,
              IndexError, MemoryError, pickle.PickleError, ScratchError)  # fmt: skip


@dataclass
class RunState:
    """Everything that a step reads or changes, as tensors, numbers and strings.

    `settings` is what the run was started with; `step` and `seconds` are what has been done and the
    training time that it took; `held` is what the journal could not write by then.
    """

    settings: dict[str, Any]
    step: int
    seconds: float
    model: dict[str, Any]
    ema: dict[str, Any]
    optimizer: dict[str, Any]
    generator: torch.Tensor
    held: str = ""


def save_state(folder: Path, state: RunState) -> Path:
    """Write `state` into `folder`, then remove all but it and the one before it.

    Raises `ScratchError` when it cannot be written; the files that were there are still there.
    """
    buffer = io.BytesIO()
    torch.save(vars(state), buffer)
    data = buffer.getbuffer()
    path = folder / f"state-{state.step:09d}.pt"
    write_file(path, [HEAD, hashlib.sha256(data).digest(), data], overwrite=True)
    others = sorted(set(folder.glob(PATTERN)) - {path})
    before = [other for other in others if other < path]  # later ones were left aside when it began
    for old in set(others) - set(before[len(before) - KEEP + 1 :]):
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def load_state(folder: Path) -> RunState | None:
    """The newest state in `folder` that can be read, or None where there is none.

    A damaged one is passed over with a warning. Raises `ScratchError` when there are states and none of
    them can be read.
    """
    paths = sorted(folder.glob(PATTERN), reverse=True)
    for path in paths:
        try:
            return _read(path)
        except UNREADABLE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("%s - left aside, it is damaged: %s", path, reason)
    if paths:
        raise ScratchError(
            f"no state in {folder} can be read - damaged, or written by another version"
            " - train into another folder"
        )
    return None


def _read(path: Path) -> RunState:
    with open_file(path) as file:
        data = memoryview(file.read())
    if bytes(data[: len(HEAD)]) == HEAD:
        digest, data = data[len(HEAD) : len(HEAD) + 32], data[len(HEAD) + 32 :]
        if hashlib.sha256(data).digest() != digest:
            raise ValueError("its checksum is not that of its contents")
    elif bytes(data[:2]) != b"PK":  # the first format was the bare archive, without a checksum
        raise ValueError("it does not begin like a state")
    saved = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    for key in ("format", "extra"):  # of the first format
        saved.pop(key, None)
    state = RunState(**saved)
    for name, kind in get_type_hints(RunState).items():
        if not isinstance(getattr(state, name), get_origin(kind) or kind):
            raise TypeError(f"its {name} is of another kind")
    return state


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON has them: tuples are lists."""
    return dict(json.loads(json.dumps(settings)))


def check_settings(saved: dict[str, Any], asked: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with a run that was started differently, and say what is different."""
    saved = plain(saved)
    differences = [
        f"{key} was {saved.get(key)!r} and is now {asked.get(key)!r}"
        for key in sorted(saved.keys() | asked.keys())
        if saved.get(key) != asked.get(key)
    ]
    if differences:
        raise UsageError(
            f"cannot resume {folder} - {'; '.join(differences)}"
            " - use the same settings, or train into another folder"
        )
