"""What a run has finished so far, in files of its folder, so that a run that stopped can go on."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from sd_scratch.checkpoints.safetensors_file import read_header
from sd_scratch.errors import UsageError
from sd_scratch.files import write_file


class State:
    """Finished parts, each a file ``state-NAME.safetensors`` that is there whole or not at all.

    `mark` is everything that a part depends on beside its name. A part that was made with another mark
    is refused (UsageError), not used. `folder` is asked for when the first part is written.
    """

    def __init__(self, folder: str | Path | Callable[[], Path], mark: Mapping[str, Any]) -> None:
        self._folder = folder
        self.mark = json.dumps(mark, sort_keys=True, ensure_ascii=False, default=str)

    @property
    def folder(self) -> Path:
        return self._folder() if callable(self._folder) else Path(self._folder)

    def names(self, start: str = "") -> list[str]:
        """The parts that are there and whose names begin with `start`."""
        files = self.folder.glob(f"state-{start}*.safetensors")
        return sorted(path.stem.removeprefix("state-") for path in files)

    def read(self, name: str) -> dict[str, Tensor] | None:
        """A part, or None where it is not there. Raises ScratchError for a damaged file."""
        if not self.path(name).is_file():
            return None
        self._check(name)
        return load_file(self.path(name))

    def check(self) -> None:
        """Raise UsageError where any part was made with another mark."""
        for name in self.names():
            self._check(name)

    def _check(self, name: str) -> None:
        path = self.path(name)
        read_header(path)
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("settings") != self.mark:
                raise UsageError(
                    f"{path} was made with other settings - use those of the run that is to go on, "
                    "or another folder"
                )

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        data = {key: value.contiguous() for key, value in tensors.items()}
        write_file(self.path(name), save(data, {"settings": self.mark}), overwrite=True)

    def clear(self) -> None:
        """Remove all parts."""
        for name in self.names(""):
            self.path(name).unlink()

    def path(self, name: str) -> Path:
        return self.folder / f"state-{name}.safetensors"
