"""The data sets by name: what they are, where they lie, how they are read."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.training.pixels.cifar import TEST_FILES, TRAIN_FILES, read_batches
from sd_scratch.training.pixels.idx import read_idx_pair
from sd_scratch.training.pixels.images import LabelledImages
from sd_scratch.training.pixels.pictures import read_pictures

PICTURE_SIDE = 32
TEST_EVERY = 10  # of one's own pictures, one in ten is kept for tests

DIGITS = tuple("0123456789")
FASHION = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


@dataclass(frozen=True)
class DataSet:
    """What a model learns from, and what it never sees."""

    train: LabelledImages
    test: LabelledImages


def load_data(name: str, folder: Path | None = None) -> DataSet:
    """A data set by name: mnist, fashion-mnist, cifar10, or pictures (a folder of one's own).

    Raises `ScratchError` where files are missing or wrong; it says how to fetch them.
    """
    if name not in READERS:
        raise UsageError(f"no data set {name!r} - there is {', '.join(READERS)}")
    if name == "pictures" and folder is None:
        raise UsageError("which pictures? - name their folder with --data")
    folder = folder or data_folder(name)
    if not folder.is_dir():
        fetch = "" if name == "pictures" else f"fetch it with `sd-scratch data {name}`, or "
        raise UsageError(f"{folder} - no such folder - {fetch}name the right one with --data")
    return READERS[name](folder)


def data_folder(name: str) -> Path:
    """Where a data set is kept: under SD_SCRATCH_DATA, or in the user's cache."""
    home = os.environ.get("SD_SCRATCH_DATA")
    if home:
        return Path(home) / name
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "sd_scratch" / "data" / name


def _mnist(class_names: tuple[str, ...]) -> Callable[[Path], DataSet]:
    def read(folder: Path) -> DataSet:
        train = read_idx_pair(folder, "train", class_names)
        test = read_idx_pair(folder, "t10k", class_names)
        if len(train) < len(test):
            raise ScratchError(
                f"{folder} - more pictures for tests ({len(test):,}) than for training"
                f" ({len(train):,}) - the two sets are swapped"
            )
        return DataSet(train, test)

    return read


def _cifar10(folder: Path) -> DataSet:
    train = read_batches(folder, TRAIN_FILES, CIFAR10)
    return DataSet(train, read_batches(folder, TEST_FILES, CIFAR10))


def _pictures(folder: Path) -> DataSet:
    data = read_pictures(folder, PICTURE_SIDE)
    if len(data) < TEST_EVERY:
        raise ScratchError(f"{folder} - only {len(data)} pictures - give at least {TEST_EVERY}")
    kept = kept_for_tests(data.labels)
    if not kept.any():
        raise ScratchError(
            f"{folder} - every class has one picture alone, and none can be kept for tests - give more"
        )
    return DataSet(data.rows((~kept).nonzero()[:, 0]), data.rows(kept.nonzero()[:, 0]))


def kept_for_tests(labels: Tensor) -> Tensor:
    """Which pictures are not trained on ``[N]``: every tenth, class after class, whatever their order in
    the table; never the last one that a class has."""
    left = labels.bincount()
    kept = torch.zeros(len(labels), dtype=torch.bool)
    waiting = 0
    for row in labels.argsort(stable=True).tolist():
        waiting += 1
        if waiting >= TEST_EVERY and left[labels[row]] > 1:
            kept[row], waiting = True, 0
            left[labels[row]] -= 1
    return kept


READERS: dict[str, Callable[[Path], DataSet]] = {
    "mnist": _mnist(DIGITS),
    "fashion-mnist": _mnist(FASHION),
    "cifar10": _cifar10,
    "pictures": _pictures,
}
