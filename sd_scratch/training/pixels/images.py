"""`LabelledImages`: a data set, held in memory, since it is small."""

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from sd_scratch.errors import ScratchError
from sd_scratch.files import open_file


@dataclass(frozen=True)
class LabelledImages:
    """Pictures ``[N, C, S, S]`` uint8, their classes ``[N]`` int64, and what the classes are called.

    Raises `ScratchError` where a label is not a number of a class, or pictures and labels are not
    equally many; `source` names the files for that message.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    class_names: tuple[str, ...]
    source: str = "the data"

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ScratchError(
                f"{self.source} - {len(self.images):,} pictures but {len(self.labels):,} labels"
                " - the files of the training and the test set are mixed up"
            )
        if not len(self.images):
            raise ScratchError(f"{self.source} - no pictures - fetch the files again")
        wrong = (self.labels < 0) | (self.labels >= len(self.class_names))
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ScratchError(
                f"{self.source} - label {int(self.labels[row])} of picture {row} is not in"
                f" 0..{len(self.class_names) - 1} - damaged or another data set"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def side(self) -> int:
        return self.images.shape[-1]

    @cached_property
    def fingerprint(self) -> str:
        """How many pictures these are, and a checksum of them and their classes: what a run learns from."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels):
            digest.update(tensor.contiguous().numpy().tobytes())
        return f"{len(self)} ({digest.hexdigest()[:16]})"

    def rows(self, rows: Tensor) -> "LabelledImages":
        return LabelledImages(self.images[rows], self.labels[rows], self.class_names, self.source)

    def first(self, count: int) -> "LabelledImages":
        return self.rows(torch.arange(min(count, len(self))))


@dataclass(frozen=True)
class DataSet:
    """What a model learns from, and what it never sees."""

    train: LabelledImages
    test: LabelledImages


def open_data(path: Path, limit: int) -> AbstractContextManager[BinaryIO]:
    """Open a data set's file of at most `limit` bytes. Raises `ScratchError` where there is no
    regular file."""
    if not path.exists():
        raise ScratchError(f"{path} - no such file - fetch the data set first")
    return open_file(path, limit)


def to_pixels(images: Tensor, low: float) -> Tensor:
    """uint8 to float32, black at `low` and white at 1."""
    return images.float() * ((1.0 - low) / 255.0) + low
