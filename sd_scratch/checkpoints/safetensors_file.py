"""Reading `.safetensors` files: headers checked here first, tensors copied out one at a time.

The format is eight bytes of header length (little endian), a JSON header, then the tensors' bytes
(https://github.com/huggingface/safetensors#format). The library's own checks run too; those here come
before it, to say what happened to the file in words, and to refuse what it accepts: duplicate keys,
and headers so large that reading them is an attack.

Files are read, never mapped: a file that is changed or cut while mapped kills the process.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sd_scratch.checkpoints.sniff import AGAIN, PEEK, sniff
from sd_scratch.errors import ScratchError
from sd_scratch.files import open_file
from sd_scratch.json_file import parse_json
from sd_scratch.tensors.storage import DTYPES

TENSOR_LIMIT = 10_000  # Stable Diffusion 1.x has 1,131, with a second (EMA) U-Net 1,817

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a file. `key` is its name there, `dtype` the format's name for its type."""

    path: Path
    key: str
    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes from the start of the file
    end: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def is_floating(self) -> bool:
        return self.dtype in DTYPES and DTYPES[self.dtype].is_floating_point

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def nbytes(self) -> int:
        return self.end - self.begin

    def rows(self, start: int, stop: int) -> "StoredTensor":
        """A stretch of its first axis, as a tensor of its own."""
        row = self.nbytes // self.shape[0]
        return replace(
            self,
            shape=(stop - start, *self.shape[1:]),
            begin=self.begin + start * row,
            end=self.begin + stop * row,
        )

    def read(self, buffer: Tensor | None = None) -> Tensor:
        """The tensor as it is stored: in memory of its own, or in `buffer`, a uint8 tensor of at least
        `nbytes` that the next reading may use again.

        Raises ScratchError when the file has become shorter since its header was read.
        """
        if buffer is None:
            buffer = torch.empty(self.nbytes, dtype=torch.uint8)
        buffer = buffer[: self.nbytes]
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.begin)
            _read_into(file, buffer.numpy().data, self)
        return buffer.view(DTYPES[self.dtype]).reshape(self.shape)

    def pieces(self, count: int) -> Iterator[Tensor]:
        """Its numbers in order, at most `count` at a time, each time in the same memory."""
        size = count * DTYPES[self.dtype].itemsize
        buffer = torch.empty(size, dtype=torch.uint8)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.begin)
            for start in range(0, self.nbytes, size):
                part = buffer[: min(size, self.nbytes - start)]
                _read_into(file, part.numpy().data, self)
                yield part.view(DTYPES[self.dtype])


@dataclass(frozen=True)
class ScaledTensor(StoredTensor):
    """Numbers of eight bits that mean `scale` times themselves: one scale, or one for each row."""

    scale: StoredTensor

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.float32

    def rows(self, start: int, stop: int) -> StoredTensor:
        scale = self.scale if self.scale.numel == 1 else self.scale.rows(start, stop)
        part = super().rows(start, stop)
        return replace(part, scale=scale)  # type: ignore[call-arg]

    def read(self, buffer: Tensor | None = None) -> Tensor:
        scale = self.scale.read().float()
        if scale.numel() > 1:
            scale = scale.reshape(-1, *[1] * (len(self.shape) - 1))
        return super().read(buffer).float() * scale

    def pieces(self, count: int) -> Iterator[Tensor]:
        yield from torch.split(self.read().reshape(-1), count)


@dataclass(frozen=True)
class Header:
    """What a `.safetensors` file holds: its tensors by name, and its free-text metadata."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]
    note: str = ""  # a remark on the file's name, or ""


def read_header(path: Path) -> Header:
    """Check a `.safetensors` file and list its tensors, without reading them.

    Raises ScratchError, in one line that names the file and the likely cause, for a missing or
    unreadable file, anything that is not safetensors (`sniff` names it), a file that is cut or has
    extra bytes, and a header that is too large, malformed, or lists a tensor twice.
    """
    text, start = _header_text(path)
    entries = parse_json(text, f"{path} (header)")
    metadata = entries.pop("__metadata__", None) or {}  # null is an empty one to the library, too
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ScratchError(f"{path} - its `__metadata__` is not an object of texts - {AGAIN}")
    if not 0 < len(entries) <= TENSOR_LIMIT:
        raise ScratchError(f"{path} - lists {len(entries):,} tensors - not a model of this kind")
    tensors = {key: _entry(path, key, entry, start) for key, entry in entries.items()}
    _check_size(path, max(tensor.end for tensor in tensors.values()))
    _check_with_library(path)
    named_so = path.suffix.lower() == ".safetensors"
    note = "" if named_so else f"{path.name} is a safetensors file, whatever its name says"
    return Header(path, tensors, metadata, note)


def _header_text(path: Path) -> tuple[bytes, int]:
    """The header's JSON, and where the tensors begin."""
    with open_file(path) as file:
        if problem := sniff(file.read(PEEK)):
            raise ScratchError(f"{path} - {problem}")
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length)
    if len(text) < length:
        raise _cut(path, 8 + len(text), 8 + length, "more than ")
    return text, 8 + length


def _entry(path: Path, key: str, entry: Any, start: int) -> StoredTensor:
    """One line of the header; the library checks afterwards that offsets, shapes and types agree."""
    try:
        begin, end = entry["data_offsets"]
        shape, dtype = entry["shape"], entry["dtype"]
        well_formed = (
            all(type(n) is int and n >= 0 for n in [begin, end, *shape])
            and isinstance(dtype, str)
            and key.isprintable()  # names are shown to people
        )
    except (KeyError, TypeError, ValueError):
        well_formed = False
    if not well_formed:
        raise ScratchError(f"{path} - the header's entry for {key[:60]!r} is malformed - {AGAIN}")
    return StoredTensor(path, key, dtype, tuple(shape), start + begin, start + end)


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size
    if size < expected:
        raise _cut(path, size, expected)
    if size > expected:
        raise ScratchError(
            f"{path} - {size - expected:,} extra bytes after the last tensor - {AGAIN}"
        )


def _cut(path: Path, size: int, expected: int, more: str = "") -> ScratchError:
    return ScratchError(
        f"{path} - cut short: have {size:,} of {more}{expected:,} bytes"
        f" ({100 * size // expected} %) - the download was interrupted, run it again"
    )


def _check_with_library(path: Path) -> None:
    """Overlaps, holes, shapes that disagree with offsets, unknown types: the library's strict checks."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # which the library would call a fault of the file
        raise ScratchError(f"{path} - its path is not UTF-8 text - rename it") from None
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0][:160]
        raise ScratchError(f"{path} - not a valid safetensors file ({reason}) - {AGAIN}") from None


def _read_into(file: Any, target: memoryview, tensor: StoredTensor) -> None:
    while target:
        n = file.readinto(target)  # one call reads at most 2 GiB on Linux
        if not n:
            raise ScratchError(f"{tensor.path} - became shorter while {tensor.key} was read")
        target = target[n:]
