"""Reading PyTorch's pickles (`.ckpt`, `.pt`, `.bin`) without running their code.

A pickle is a program. PyTorch's restricted reader runs it with an allow-list: the makers of tensors, and
stand-ins for objects of training programs. There is no way around the list. A compressed archive, or a tensor
larger than its stored numbers, is refused: a file of a kilobyte can ask for terabytes.
"""

import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sd_scratch.checkpoints.safetensors_file import (
    DTYPE_NAMES,
    TENSOR_LIMIT,
    Header,
    StoredTensor,
    read_header,
)
from sd_scratch.checkpoints.sniff import AGAIN, PICKLE, sniff_file
from sd_scratch.errors import ScratchError

ENTRY = re.compile(
    r"[^/]+/(data\.pkl|data/\d+|version|byteorder|\.data/serialization_id|\.format_version"
    r"|\.storage_alignment)"
)
WRAPPERS, WRAPPER_NAMES = 2, ("state_dict", "model", "module")  # tables around the tensors
ELSEWHERE = "find a .safetensors version"


class _StandIn:
    """Replaces an object of a training program: takes anything, keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> "_StandIn":
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def _nothing(*_: object) -> None:
    """Replaces a function."""


STAND_INS: list[tuple[Any, str]] = [
    (_StandIn, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    (_StandIn, "pytorch_lightning.callbacks.early_stopping.EarlyStopping"),
    (_StandIn, "pytorch_lightning.callbacks.base.Callback"),
    (_StandIn, "numpy.dtype"),
    (_StandIn, "numpy.dtypes.Float64DType"),
    (_nothing, "numpy.core.multiarray.scalar"),
    (_nothing, "numpy._core.multiarray.scalar"),
    (_nothing, "_codecs.encode"),
]


@dataclass(frozen=True)
class HeldTensor(StoredTensor):
    """A tensor in memory, read like one in a file."""

    tensor: Tensor

    @staticmethod
    def of(path: Path, key: str, tensor: Tensor) -> "HeldTensor":
        name = DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype))
        size = tensor.numel() * tensor.itemsize
        return HeldTensor(path, key, name, tuple(tensor.shape), 0, size, tensor)

    def rows(self, start: int, stop: int) -> StoredTensor:
        return HeldTensor.of(self.path, self.key, self.tensor[start:stop])

    def read(self, buffer: Tensor | None = None) -> Tensor:
        return self.tensor

    def pieces(self, count: int) -> Iterator[Tensor]:
        yield from torch.split(self.tensor.reshape(-1), count)


def read_weights(path: Path) -> Header:
    """The tensors of a `.safetensors` file or of a pickle, whatever its name says.

    Raises ScratchError, in one line, for anything else.
    """
    return read_pickle(path) if sniff_file(path) == PICKLE else read_header(path)


def read_pickle(path: Path) -> Header:
    """The tensors of a state dict, at most two tables of `WRAPPER_NAMES` deep.

    Raises ScratchError for a damaged file, one that calls more than makers of tensors, and one without named
    tensors.
    """
    content = load_pickle(path)
    for _ in range(WRAPPERS):
        if isinstance(content, Mapping):
            inner = (content.get(name) for name in WRAPPER_NAMES)
            content = next((table for table in inner if isinstance(table, Mapping)), content)
    if not isinstance(content, Mapping):
        raise ScratchError(
            f"{path} - holds a {type(content).__name__} and no weights by their names"
        )
    tensors = {
        key: HeldTensor.of(path, key, whole(path, key, value))
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if "string_to_param" in content:
        raise ScratchError(f"{path} - this is a textual inversion embedding, and not a model")
    if not 0 < len(tensors) <= TENSOR_LIMIT:
        raise ScratchError(f"{path} - holds {len(tensors):,} tensors - not a model of this kind")
    others = [key for key in content if key not in tensors]
    note = ""
    if others:
        note = (
            f"{len(others)} entries, such as {str(others[0])[:40]!r}, are no tensors and not used"
        )
    return Header(path, tensors, {}, note)


def load_pickle(path: Path) -> Any:
    """The content of a pickle. Raises ScratchError, which lists its forbidden calls."""
    try:
        _check_archive(path)
        # Opened here: by a path PyTorch goes by the ending, and reads some as another format.
        allowed = torch.serialization.safe_globals([nn.ParameterDict, *STAND_INS])
        with path.open("rb") as file, allowed:
            return torch.load(file, map_location="cpu", weights_only=True)
    except ScratchError:
        raise
    except Exception as error:  # a damaged archive or pickle can raise anything
        wanted = _wanted(path)
        reason = f"it wants to call {wanted}" if wanted else " ".join(str(error).split())[:120]
        raise ScratchError(
            f"{path} - a pickle that holds more than tensors, or is damaged ({reason}) - {ELSEWHERE}"
        ) from None


def whole(path: Path, key: str, tensor: Tensor) -> Tensor:
    """The tensor itself, if all of it is stored. Raises ScratchError for sparse ones, and for those that
    repeat what is stored: to copy such a tensor can take any amount of memory."""
    held = tensor.untyped_storage().nbytes() if tensor.layout == torch.strided else -1
    if tensor.is_meta or tensor.numel() * tensor.element_size() > held:
        raise ScratchError(f"{path} - {key or 'its tensor'} is not stored whole - {AGAIN}")
    return tensor.detach()


def _check_archive(path: Path) -> None:
    """PyTorch stores its archives without compression and under names of its own."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = {entry.filename for entry in entries}
    if len(names) < len(entries) or not all(ENTRY.fullmatch(name) for name in names):
        raise ScratchError(
            f"{path} - an archive with files that PyTorch does not write - unpack it, or {AGAIN}"
        )
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ScratchError(f"{path} - a compressed archive, which PyTorch does not write - {AGAIN}")


def _wanted(path: Path) -> str:
    """The forbidden calls of an archive's pickle, found without calling them."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # only archives are looked into, and damaged ones can raise anything
        return ""
    known = {name for _, name in STAND_INS}
    return ", ".join(sorted(name[:60] for name in names if name not in known)[:5])
