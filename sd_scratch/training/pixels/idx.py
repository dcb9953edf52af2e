"""The IDX files of MNIST and Fashion-MNIST, read by hand.

A header of big-endian numbers, then bytes (LeCun, Cortes and Burges, "The MNIST database"):

    0   0   8   d      8: the values are unsigned bytes; d: the number of axes
    n_1 ... n_d        the length of each axis, 4 bytes each
    values             the last axis fastest
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from sd_scratch.errors import ScratchError
from sd_scratch.training.pixels.images import DataSet, LabelledImages, open_data

UNSIGNED_BYTE = 8
LARGEST = 1 << 28  # bytes; MNIST's pictures are 47 million
KINDS = {1: "labels", 3: "pictures"}
GZIP_START = b"\x1f\x8b"


def read_idx(path: Path, axes: int) -> Tensor:
    """The uint8 tensor in an IDX file, plain or gzipped, of `axes` axes (1 labels, 3 pictures).

    Raises `ScratchError` for a missing, cut or damaged file, another kind of file, and for labels
    where pictures are wanted or the other way round.
    """
    with open_data(path, LARGEST) as file:
        packed = file.read(2) == GZIP_START
        file.seek(0)
        try:
            return _read(cast(BinaryIO, gzip.open(file)) if packed else file, path, axes)
        except EOFError:
            raise ScratchError(
                f"{path} - cut short - the download was interrupted, get it again"
            ) from None
        except (zlib.error, gzip.BadGzipFile):
            raise ScratchError(f"{path} - damaged: it cannot be unpacked - get it again") from None


def read_idx_pair(folder: Path, stem: str, class_names: tuple[str, ...]) -> LabelledImages:
    """Pictures and labels of ``train`` or ``t10k``, as ``[N, 1, S, S]``."""
    images = read_idx(_find(folder, f"{stem}-images-idx3-ubyte"), 3)
    labels = read_idx(_find(folder, f"{stem}-labels-idx1-ubyte"), 1)
    where = f"{folder} ({stem})"
    if images.shape[1] != images.shape[2]:
        raise ScratchError(f"{where} - pictures of {tuple(images.shape[1:])} are not square")
    return LabelledImages(images[:, None], labels.long(), class_names, where)


def read_idx_sets(folder: Path, class_names: tuple[str, ...]) -> DataSet:
    """MNIST, or a data set in its format. Raises `ScratchError` as `read_idx` does, and where the sets
    for training and for tests are swapped."""
    train = read_idx_pair(folder, "train", class_names)
    test = read_idx_pair(folder, "t10k", class_names)
    if len(train) < len(test):
        raise ScratchError(
            f"{folder} - more pictures for tests ({len(test):,}) than for training"
            f" ({len(train):,}) - the two sets are swapped"
        )
    return DataSet(train, test)


def _find(folder: Path, name: str) -> Path:
    """The file as it is published, gzipped, or unpacked."""
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def _read(file: BinaryIO, path: Path, axes: int) -> Tensor:
    magic = file.read(4)
    if len(magic) < 4:
        raise EOFError
    if magic[:3] != bytes([0, 0, UNSIGNED_BYTE]):
        raise ScratchError(f"{path} - not an IDX file of bytes - another file under this name?")
    if magic[3] != axes:
        found = KINDS.get(magic[3], f"{magic[3]} axes")
        raise ScratchError(
            f"{path} - holds {found} where {KINDS[axes]} belong - two files are swapped"
        )
    lengths = file.read(4 * axes)
    if len(lengths) < 4 * axes:
        raise EOFError
    shape = struct.unpack(f">{axes}I", lengths)
    size = math.prod(shape)
    if size > LARGEST:
        raise ScratchError(f"{path} - announces {size:,} bytes - damaged, get it again")
    values = file.read(size + 1)
    if len(values) < size:
        raise ScratchError(f"{path} - cut short: {len(values):,} of {size:,} values - get it again")
    if len(values) > size:
        raise ScratchError(f"{path} - more values than its header says - damaged, get it again")
    return torch.from_numpy(np.frombuffer(bytearray(values), dtype=np.uint8).reshape(shape))
