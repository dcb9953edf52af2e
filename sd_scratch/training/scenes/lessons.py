"""What the pair's image encoder is asked beside the contrast, because the scenes are known.

Each patch says which shape and colour it shows, and the vector of the whole picture, colour by colour,
whether there is something of it, and what, how large, how often and where. A score of a text is a product
with that vector, and so is each of these answers: what they can tell, texts can ask for. By the contrast
alone, position and shape came last, long after colours.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.training.scenes.graph import COLOURS, SHAPES, SIZES, Scene

ABSENT = len(SHAPES)
MOST = 4  # objects alike
PATCH_ANSWERS = (len(SHAPES) + 1, len(COLOURS))
FACT_ANSWERS = (len(SHAPES) + 1, len(SIZES), MOST, 2)  # shape, size, count, centre
PATCH_SHAPE, PATCH_COLOUR = 0.25, 0.5  # covered share of a patch from which on an object counts
CENTRE_WEIGHT = 10.0  # a centre's variance is about 0.03


class Lessons(nn.Module):
    """The linear layers that answer; none of them is kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(width, sum(PATCH_ANSWERS))
        self.fact = nn.Linear(width, len(COLOURS) * sum(FACT_ANSWERS))

    def forward(self, patches: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, P, C]`` and ``[B, C]`` -> answers of the patches ``[B, P, a]``, of the picture
        ``[B, colours, f]``."""
        return self.patch(patches), self.fact(picture).unflatten(1, (len(COLOURS), -1))


def patch_loss(answers: Tensor, scenes: Sequence[Scene], masks: Tensor) -> Tensor:
    """Cross entropies of the shape in each patch (or none) and of its colour (or the background's).

    `answers` are ``[B, P, a]`` for the patches row by row, `masks` ``[B, K, S, S]``.
    """
    cells = round(answers.shape[1] ** 0.5)
    covered = F.adaptive_avg_pool2d(masks, cells).flatten(2).to(answers.device)  # [B, K, P]
    most, which = covered.max(dim=1)
    shapes, colours = list(SHAPES), list(COLOURS)
    rows = []
    for scene in scenes:
        items = [(shapes.index(item.shape), colours.index(item.colour)) for item in scene.objects]
        items += [(0, 0)] * (masks.shape[1] - len(items))
        rows.append([*items, (ABSENT, colours.index(scene.background))])
    table = torch.tensor(rows, device=answers.device)  # [B, K + 1, 2]
    nothing = torch.full_like(which, masks.shape[1])
    shape = table[:, :, 0].gather(1, torch.where(most >= PATCH_SHAPE, which, nothing))
    colour = table[:, :, 1].gather(1, torch.where(most >= PATCH_COLOUR, which, nothing))
    by_shape, by_colour = answers.flatten(0, 1).split(PATCH_ANSWERS, dim=1)
    return F.cross_entropy(by_shape, shape.flatten()) + F.cross_entropy(by_colour, colour.flatten())


def fact_loss(answers: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """What is there of each colour (or nothing), and of those that are there shape, size, number and,
    of single ones, the centre: sums over a picture's colours, from answers ``[B, colours, f]``."""
    shape = torch.full(answers.shape[:2], ABSENT)
    size, more = torch.zeros_like(shape), torch.zeros_like(shape)
    centre = torch.zeros(*shape.shape, 2)
    shapes, colours, sizes = list(SHAPES), list(COLOURS), list(SIZES)
    for b, scene in enumerate(scenes):
        for item in scene.objects:
            c = colours.index(item.colour)
            shape[b, c], size[b, c] = shapes.index(item.shape), sizes.index(item.size)
            more[b, c] = len(scene.objects) - 1 if scene.kind == "count" else 0
            centre[b, c] = torch.tensor([item.x, item.y])
    here = shape != ABSENT
    single = here & (more == 0)
    by_shape, by_size, by_number, by_centre = answers.split(FACT_ANSWERS, dim=2)
    device, total = answers.device, len(scenes)
    wrong = F.cross_entropy(by_shape.flatten(0, 1), shape.flatten().to(device), reduction="none")
    loss = wrong.mean() + wrong[here.flatten()].sum() / total
    for part, goal in ((by_size, size), (by_number, more)):
        loss = loss + F.cross_entropy(part[here], goal[here].to(device), reduction="sum") / total
    off = (by_centre[single] - centre[single].to(device)).square().sum()
    return loss + CENTRE_WEIGHT * off / total
