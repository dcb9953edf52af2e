"""The data sets: a row each, from which presets, reading, fetching, judging and cards follow.

What stands here imports nothing heavy, since the command line lists the names; readers import PyTorch when
they are called.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sd_scratch.config import ClassifierConfig
from sd_scratch.errors import UsageError
from sd_scratch.training.pixels.presets import (
    CIFAR_NET,
    FASHION_NET,
    LARGE_NET,
    MNIST_NET,
    JudgePreset,
    PixelPreset,
    better,
    judge,
    paper,
)

if TYPE_CHECKING:
    from sd_scratch.training.pixels.images import DataSet

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
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


IDX_FILES = tuple(
    f"{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_FILE = "test_batch.bin"
BATCHES = "cifar-10-batches-bin"
PICTURE_SIDE = 32


@dataclass(frozen=True)
class Remote:
    """A published file: its size in bytes and its sha256. Of an archive, `members` are put into `folder`."""

    name: str
    size: int
    sha256: str
    folder: str = ""
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """The files of a data set and the servers that have them, tried in turn."""

    servers: tuple[str, ...]
    files: tuple[Remote, ...]


@dataclass(frozen=True)
class DataRow:
    """What a data set is, how it is read, learnt and judged, and where it can be had.

    `read` turns a folder into pictures; `source` is None if it is not published.
    """

    about: str
    read: Callable[[Path], "DataSet"]
    presets: dict[str, PixelPreset]
    judge: JudgePreset
    source: Source | None = None


def _idx(class_names: tuple[str, ...]) -> Callable[[Path], "DataSet"]:
    def read(folder: Path) -> "DataSet":
        from sd_scratch.training.pixels.idx import read_idx_sets

        return read_idx_sets(folder, class_names)

    return read


def _idx_files(*published: tuple[int, str]) -> tuple[Remote, ...]:
    """The four files of MNIST's format, by their sizes and sums."""
    return tuple(Remote(name, *rest) for name, rest in zip(IDX_FILES, published, strict=True))


def _cifar10(folder: Path) -> "DataSet":
    from sd_scratch.training.pixels.cifar import read_batches
    from sd_scratch.training.pixels.images import DataSet

    folder = folder / BATCHES if (folder / BATCHES).is_dir() else folder
    train = read_batches(folder, TRAIN_FILES, CIFAR10)
    return DataSet(train, read_batches(folder, (TEST_FILE,), CIFAR10))


def _pictures(folder: Path) -> "DataSet":
    from sd_scratch.training.pixels.pictures import read_pictures, split

    return split(read_pictures(folder, PICTURE_SIDE))


def _photographs(data: str) -> dict[str, PixelPreset]:
    return {
        "better": better(data, CIFAR_NET, lr=6e-4, flip=True, batch=64),
        "large": better(data, LARGE_NET, lr=4e-4, flip=True, batch=256),
        "paper": paper(data, 128, 32, 3),
        "paper-64": paper(data, 64, 32, 3),
    }


PHOTOGRAPH_JUDGE = judge(
    ClassifierConfig(in_channels=3, sample_size=32, block_out_channels=(32, 64, 128)),
    shift=4,
    flip=True,
)

DATA_SETS = {
    "mnist": DataRow(
        "MNIST (LeCun, Cortes and Burges): 60,000 handwritten digits; no licence is stated.",
        _idx(DIGITS),
        {
            "better": better("mnist", MNIST_NET, lr=1e-3),
            "paper": paper("mnist", 128, 28, 1),
            "paper-64": paper("mnist", 64, 28, 1),
        },
        judge(ClassifierConfig(), shift=2, flip=False),
        Source(
            (
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ),
            _idx_files(
                (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
                (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
                (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
                (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
            ),
        ),
    ),
    "fashion-mnist": DataRow(
        "Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 60,000 articles; MIT licence.",
        _idx(FASHION),
        {
            "better": better("fashion-mnist", FASHION_NET, lr=6e-4),
            "paper": paper("fashion-mnist", 128, 28, 1),
            "paper-64": paper("fashion-mnist", 64, 28, 1),
        },
        judge(ClassifierConfig(block_out_channels=(32, 64, 128)), shift=2, flip=True),
        Source(
            ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
            _idx_files(
                (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
                (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
                (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
                (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
            ),
        ),
    ),
    "cifar10": DataRow(
        "CIFAR-10 (Krizhevsky 2009): 50,000 photographs; no licence is stated.",
        _cifar10,
        _photographs("cifar10"),
        PHOTOGRAPH_JUDGE,
        Source(
            ("https://www.cs.toronto.edu/~kriz/",),
            (
                Remote(
                    "cifar-10-binary.tar.gz",
                    170_052_171,
                    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                    BATCHES,
                    (*TRAIN_FILES, TEST_FILE),
                ),
            ),
        ),
    ),
    "pictures": DataRow(
        "A folder of pictures.", _pictures, _photographs("pictures"), PHOTOGRAPH_JUDGE
    ),
}


def find_data(name: str) -> DataRow:
    """Raises `UsageError` for a data set that is not there."""
    if name not in DATA_SETS:
        raise UsageError(f"no data set {name!r} - there is {', '.join(DATA_SETS)}")
    return DATA_SETS[name]


def find_preset(data: str, variant: str = "better") -> PixelPreset:
    """Raises `UsageError` for a combination that does not exist."""
    variants = find_data(data).presets
    if variant not in variants:
        raise UsageError(
            f"there is no preset {variant!r} for {data} - there is {', '.join(variants)}"
        )
    return replace(variants[variant], data=data)


def load_data(name: str, folder: Path | None = None) -> "DataSet":
    """A data set by name: mnist, fashion-mnist, cifar10, or pictures (a folder of one's own).

    Raises `ScratchError` where files are missing or wrong; it says how to fetch them.
    """
    row = find_data(name)
    if row.source is None and folder is None:
        raise UsageError("which pictures? - name their folder")
    folder = folder or data_folder(name)
    if not folder.is_dir():
        fetch = f"fetch it with `sd-scratch data {name}`, or " if row.source else ""
        raise UsageError(f"{folder} - no such folder - {fetch}name the right one")
    return row.read(folder)


def data_folder(name: str) -> Path:
    """Where a data set is kept: under SD_SCRATCH_DATA, or in the user's cache."""
    home = os.environ.get("SD_SCRATCH_DATA")
    if home:
        return Path(home) / name
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise UsageError(
            f"{name} - no folder of yours is known on this machine (HOME is not set) - name the data's"
            " folder, or set SD_SCRATCH_DATA to one"
        ) from None
    return Path(cache) / "sd_scratch" / "data" / name
