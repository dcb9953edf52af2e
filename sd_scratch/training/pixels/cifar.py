"""CIFAR-10's official binary batches, read by hand.

Krizhevsky 2009, "Learning multiple layers of features from tiny images". A record is one byte for the
class, then 32 x 32 bytes of red, as many of green, as many of blue, row by row.
"""

from pathlib import Path

import numpy as np
import torch

from sd_scratch.errors import ScratchError, log
from sd_scratch.training.pixels.images import LabelledImages, open_data

SIDE, CHANNELS = 32, 3
RECORD = 1 + CHANNELS * SIDE * SIDE
BATCH = 10_000  # records in an official file
LARGEST = 10 * BATCH * RECORD  # bytes


def read_batches(
    folder: Path, names: tuple[str, ...], class_names: tuple[str, ...]
) -> LabelledImages:
    """The records of several batch files, in order, as ``[N, 3, 32, 32]``.

    Raises `ScratchError` for a missing or cut file, and for labels outside 0..9.
    """
    parts = [_read_batch(folder / name, class_names) for name in names]
    return LabelledImages(
        torch.cat([part.images for part in parts]),
        torch.cat([part.labels for part in parts]),
        class_names,
        str(folder),
    )


def _read_batch(path: Path, class_names: tuple[str, ...]) -> LabelledImages:
    with open_data(path, LARGEST) as file:
        data = file.read()
    count, rest = divmod(len(data), RECORD)
    if rest or not count:
        raise ScratchError(
            f"{path} - {len(data):,} bytes are not whole records of {RECORD} - cut short, or another"
            " file under this name - get it again"
        )
    if count < BATCH:
        log.info("%s has %s of the official %s records", path, f"{count:,}", f"{BATCH:,}")
    records = torch.from_numpy(np.frombuffer(bytearray(data), dtype=np.uint8)).view(count, RECORD)
    images = records[:, 1:].reshape(count, CHANNELS, SIDE, SIDE)
    return LabelledImages(images, records[:, 0].long(), class_names, str(path))
