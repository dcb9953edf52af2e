"""Which pictures make batch number n, and how they are varied: all of it follows from n and a seed."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.training.pixels.images import LabelledImages
from sd_scratch.training.task import Shuffle


class Batches(Shuffle):
    """Batches of a data set in memory."""

    def __init__(self, data: LabelledImages, batch: int, seed: int) -> None:
        super().__init__(len(data), batch, seed, data.source)
        self.data = data

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Pictures ``[B, C, S, S]`` uint8 and their classes ``[B]``."""
        rows = self.rows(step)
        return self.data.images[rows], self.data.labels[rows]


def mirror_half(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every picture, left to right, with probability 1/2."""
    flipped = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)


def shift_each(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Move every picture by up to `most` pixels in both directions; black fills what is uncovered."""
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
