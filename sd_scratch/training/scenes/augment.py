"""Makes renderings a little worse, since generated pictures are worse, too."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.training.team import Team

BLUR, NOISE, SHIFT = 1.0, 0.08, 0.06  # at most, for colours in -1..1


class Wear(NamedTuple):
    """How much to blur each picture ``[B]`` (0..1), how far to move its colours ``[B, 3]`` (0..1), and
    noise ``[B, 3, S, S]``, for each picture of another strength."""

    blur: Tensor
    shift: Tensor
    noise: Tensor

    def share(self, team: Team) -> "Wear":
        """That of this process's pictures."""
        return Wear(*(team.share(x) for x in self))


def draw_wear(count: int, side: int, generator: torch.Generator) -> Wear:
    blur = torch.rand(count, generator=generator)
    shift = torch.rand(count, 3, generator=generator)
    noise = torch.randn(count, 3, side, side, generator=generator)
    return Wear(blur, shift, noise * torch.rand(count, 1, 1, 1, generator=generator))


def worsen(images: Tensor, wear: Wear) -> Tensor:
    """Pictures ``[B, 3, S, S]`` in -1..1, each somewhere between sharp and blurred by a 3x3 binomial,
    with other colours and with noise."""
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 2, stride=1)
    soft = F.avg_pool2d(soft, 2, stride=1)
    images = torch.lerp(images, soft, BLUR * wear.blur[:, None, None, None])
    images = images + SHIFT * (2 * wear.shift - 1)[:, :, None, None] + NOISE * wear.noise
    return images.clamp(-1, 1)
