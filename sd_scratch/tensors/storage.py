"""A folder of tensors: safetensors files, and a `manifest.json` that says what they are. No pickle.

Written all or not at all; read a tensor at a time.
"""

import json
from collections.abc import Hashable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.files import new_folder, write_file

MANIFEST = "manifest.json"
SHARD = 256_000_000  # bytes, about
MAX_MANIFEST = 64_000_000  # bytes

Key = TypeVar("Key", bound=Hashable)


class Stored(MutableMapping[Key, Tensor]):
    """Tensors that lie in files, and are read whenever they are asked for."""

    def __init__(self, places: dict[Key, Path]) -> None:
        self.places = places  # the name inside the file is the key as a text

    def __getitem__(self, key: Key) -> Tensor:
        with opened(self.places[key]) as file:
            value: Tensor = file.get_tensor(str(key))
            return value

    def __setitem__(self, key: Key, value: Tensor) -> None:
        raise ScratchError("a trace on disk cannot be changed")

    def __delitem__(self, key: Key) -> None:
        raise ScratchError("a trace on disk cannot be changed")

    def __contains__(self, key: object) -> bool:
        return key in self.places  # without reading it

    def __iter__(self) -> Iterator[Key]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def check(self) -> None:
        """Raise ScratchError unless every file is there, whole, and has the tensors it should have."""
        for path in dict.fromkeys(self.places.values()):
            with opened(path) as file:
                there = set(file.keys())
            missing = [
                key for key, at in self.places.items() if at == path and str(key) not in there
            ]
            if missing:
                raise damaged(path, f"{missing[0]} is missing")


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file for reading; what is wrong with it is said in one line."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from None


def write_folder(
    folder: Path, files: Mapping[str, Mapping[str, Tensor]], manifest: Mapping[str, Any]
) -> None:
    """Write tensors by file name, and the manifest, into a new folder: all of it, or nothing.

    Raises ScratchError where something is there already, or cannot be written.
    """
    with new_folder(folder) as part:
        for name, tensors in files.items():
            whole = {key: value.detach().contiguous() for key, value in tensors.items()}
            write_file(part / name, save(whole))
        write_file(part / MANIFEST, json.dumps(manifest, indent=1).encode())


def shards(values: Mapping[Key, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The values in order, in parts of about `SHARD` bytes."""
    part: dict[str, Tensor] = {}
    size = 0
    for key in values:
        value = values[key]
        if part and size + value.nbytes > SHARD:
            yield part
            part, size = {}, 0
        part[str(key)] = value
        size += value.nbytes
    if part:
        yield part


def read_tensors(path: Path) -> dict[str, Tensor]:
    with opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST:
            raise damaged(path, "it is far too large")
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UsageError(f"{folder} is no trace - it has no {MANIFEST}") from None
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"no JSON, {error}") from None
    if not isinstance(manifest, dict):
        raise damaged(path, "no JSON object")
    return manifest


def file_in(folder: Path, name: str) -> Path:
    """A file of the folder itself, and nowhere else."""
    if Path(name).name != name or name.startswith("."):
        raise ValueError(f"the file name {name!r}")
    return folder / name


def damaged(path: Path, what: str) -> ScratchError:
    return ScratchError(f"{path} is damaged: {what[:200]} - record the trace again")
