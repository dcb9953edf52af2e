"""A folder of tensors: safetensors files, and a `manifest.json` that describes them. No pickle.

Written all or not at all; read a tensor at a time.
"""

import io
import json
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.files import new_folder, open_file, write_file
from sd_scratch.json_file import read_json

MANIFEST = "manifest.json"
SHARD = 256_000_000  # bytes, about
MAX_HEADER = 64_000_000  # bytes
MAX_MANIFEST = 64_000_000  # bytes

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

Key = TypeVar("Key", bound=Hashable)


class Stored(MutableMapping[Key, Tensor]):
    """Tensors in files, read at each access."""

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
        """Raise ScratchError unless every file exists, is whole, and has its tensors."""
        for path in dict.fromkeys(self.places.values()):
            with opened(path) as file:
                there = set(file.keys())
            missing = [
                key for key, at in self.places.items() if at == path and str(key) not in there
            ]
            if missing:
                raise damaged(path, f"{missing[0]} is missing")


class _File:
    """A safetensors file that is read, never mapped: truncating a mapped file kills the process."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= MAX_HEADER:
            raise ValueError("no safetensors file")
        header = json.loads(file.read(length).decode())
        header.pop("__metadata__", None)
        self._places: dict[str, tuple[torch.dtype, list[int], int, int]] = {}
        for key, entry in header.items():
            dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            if not all(type(n) is int and n >= 0 for n in [*shape, begin, end]):
                raise ValueError(f"the entry of {key}")
            if not (8 + length <= begin <= end <= size) or (
                end - begin != math.prod(shape) * dtype.itemsize
            ):
                raise ValueError(f"{key} is cut off or of another size")
            self._places[key] = dtype, shape, begin, end

    def keys(self) -> Iterable[str]:
        return self._places.keys()

    def get_tensor(self, key: str) -> Tensor:
        dtype, shape, begin, end = self._places[key]
        data = torch.empty(end - begin, dtype=torch.uint8)
        self._file.seek(begin)
        if end > begin and self._file.readinto(data.numpy().data) < end - begin:  # type: ignore[attr-defined]
            raise ValueError(f"{key} is cut off")
        return data.view(dtype).reshape(shape)


@contextmanager
def opened(path: Path) -> Iterator[_File]:
    """A safetensors file for reading. Its errors are one line."""
    try:
        with open_file(path) as file:
            yield _File(file)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, f"{type(error).__name__} {error}") from None
    except ScratchError as error:
        raise damaged(path, str(error).removeprefix(f"{path} - ")) from None


def write_folder(
    folder: Path, files: Mapping[str, Mapping[str, Tensor]], manifest: Mapping[str, Any]
) -> None:
    """Write tensors by file name, and the manifest, into a new folder: all of it, or nothing.

    Raises ScratchError if the target exists, or cannot be written.
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
    if not path.is_file():
        raise UsageError(f"{folder} is no trace - it has no {MANIFEST}")
    return read_json(path, MAX_MANIFEST)


def file_in(folder: Path, name: str) -> Path:
    """A file of the folder itself, never elsewhere."""
    if Path(name).name != name or name.startswith("."):
        raise ValueError(f"the file name {name!r}")
    return folder / name


def damaged(path: Path, what: str) -> ScratchError:
    return ScratchError(f"{path} is damaged: {what[:200]} - record the trace again")
