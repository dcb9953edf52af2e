"""Which pictures make batch number n, and how they are varied: all of it a function of n and a seed."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.errors import ScratchError
from sd_scratch.training.pixels.images import LabelledImages

EPOCH_SEEDS = 1_000_003  # more than there are epochs


class Batches:
    """Every epoch in an order of its own; what is left over at its end is not used in it."""

    def __init__(self, data: LabelledImages, batch: int, seed: int) -> None:
        if batch > len(data):
            raise ScratchError(
                f"{data.source} - {len(data):,} pictures are fewer than a batch of {batch}"
                " - use more pictures"
            )
        self.data, self.batch, self.seed = data, batch, seed
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def rows(self, step: int) -> Tensor:
        """The numbers of the pictures in batch number `step`."""
        epoch, place = divmod(step, len(self.data) // self.batch)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * EPOCH_SEEDS + epoch)
            self._order = (epoch, torch.randperm(len(self.data), generator=generator))
        return self._order[1][place * self.batch : (place + 1) * self.batch]

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Pictures ``[B, C, S, S]`` uint8 and their classes ``[B]``."""
        rows = self.rows(step)
        return self.data.images[rows], self.data.labels[rows]


def mirror_half(images: Tensor, generator: torch.Generator) -> Tensor:
    """Left for right in every picture with probability a half."""
    flipped = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)


def shift_each(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Move every picture by up to `most` pixels in both directions; what comes in is black."""
    if not most:
        return images
    B, _, H, W = images.shape
    padded = F.pad(images, (most,) * 4)
    top, left = torch.randint(0, 2 * most + 1, (2, B, 1), generator=generator)
    rows = (top + torch.arange(H))[:, None, :, None]
    columns = (left + torch.arange(W))[:, None, None, :]
    picture = torch.arange(B)[:, None, None, None]
    channel = torch.arange(images.shape[1])[None, :, None, None]
    return padded[picture, channel, rows, columns]
