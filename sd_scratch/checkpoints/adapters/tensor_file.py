"""All tensors of a small file, whole: adapters are read before anything is changed."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sd_scratch.checkpoints.hashes import sha256
from sd_scratch.checkpoints.pickle_file import load_pickle, whole
from sd_scratch.checkpoints.safetensors_file import read_header
from sd_scratch.checkpoints.sniff import AGAIN, PICKLE, sniff_file
from sd_scratch.errors import ScratchError
from sd_scratch.tensors.storage import DTYPES

SIZE_LIMIT = 4 << 30  # bytes
DEPTH = 4  # of tables within tables in a pickle
HASH_DIGITS = 12


@dataclass(frozen=True)
class TensorFile:
    """What a file holds. `hash` is the first digits of the sha256 of a safetensors file's tensors, so
    that it survives a change of its metadata, as A1111 counts it; of a pickle the whole file's."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any]
    hash: str

    @property
    def whole_hash(self) -> str:
        """The first digits of the sha256 of all its bytes, which A1111 takes for textual inversions."""
        return sha256([self.path])[:HASH_DIGITS]


def read_tensor_file(path: Path) -> TensorFile:
    """Read a `.safetensors` file or a pickle of tensors (`.bin`, `.pt`, `.ckpt`), whatever its name says.

    Tensors inside tables of a pickle are named by their keys with dots between, those of a list by
    their numbers. Raises ScratchError for anything else, for tensors that are no numbers, and for
    numbers that are not finite.
    """
    if path.is_dir():
        raise ScratchError(f"{path} - a folder - name the file in it")
    kind, size = sniff_file(path), path.stat().st_size
    if size > SIZE_LIMIT:
        raise ScratchError(f"{path} - {size:,} bytes - too large for an adapter: a whole model?")
    found = _read_pickle(path) if kind == PICKLE else _read_safetensors(path)
    for key, tensor in found.tensors.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise ScratchError(f"{path} - {key} holds NaN or infinity - the file is damaged")
    return found


def _read_safetensors(path: Path) -> TensorFile:
    header = read_header(path)
    for key, stored in header.tensors.items():
        if stored.dtype not in DTYPES:
            raise ScratchError(
                f"{path} - {key} is stored as {stored.dtype}, which is not supported"
            )
    tensors = {key: stored.read() for key, stored in header.tensors.items()}
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(min(stored.begin for stored in header.tensors.values()))
        while block := file.read(1 << 22):
            digest.update(block)
    return TensorFile(path, tensors, header.metadata, digest.hexdigest()[:HASH_DIGITS])


def _read_pickle(path: Path) -> TensorFile:
    """A pickle's tensors, those in tables within tables too."""
    tensors = dict(_walk(load_pickle(path), "", path, DEPTH))
    if not tensors:
        raise ScratchError(f"{path} - a pickle without tensors - {AGAIN}")
    return TensorFile(path, tensors, {}, sha256([path])[:HASH_DIGITS])


def _walk(value: object, name: str, path: Path, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, whole(path, name, value)
    elif isinstance(value, Mapping | nn.ParameterDict | list | tuple) and depth:
        pairs = enumerate(value) if isinstance(value, list | tuple) else value.items()
        for key, inner in pairs:
            yield from _walk(inner, f"{name}.{key}" if name else str(key), path, depth - 1)


def json_metadata(metadata: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A JSON object that a program stored among a file's metadata; empty where there is none."""
    try:
        value = json.loads(metadata.get(key) or "{}")
    except (ValueError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
