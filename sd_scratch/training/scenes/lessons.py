"""Questions that the pair's encoders answer beside the contrastive loss; the known scenes give the
answers.

A picture's vector tells, for each colour, whether anything has it, and that thing's shape, size,
number and place. A text's score is a dot product with this vector, and so is each answer: what the
answers can tell, a text can ask for. Every patch answers the same about what it shows, so that the
picture's vector only has to add up; half-way through the layers each patch also tells which of its
pixels belong to an object. With the contrast alone, position and shape were learnt last, long after
colours.

A text's vector tells, for each colour, on which side of the other object the thing of that colour
stands. With the contrast alone, "left of" and "right of" were still the same to it after 250,000
pictures.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.scenes.graph import COLOURS, INVERSE, RELATIONS, SHAPES, SIZES, Scene

ABSENT = len(SHAPES)
MOST = 4  # objects alike
PATCH_ANSWERS = [len(SHAPES) + 1, len(COLOURS)]
FACT_ANSWERS = [len(SHAPES) + 1, len(SIZES), MOST, 2]  # shape, size, number, centre
NOT_SAID = len(RELATIONS)
PATCH_SHAPE, PATCH_COLOUR = 0.25, 0.5  # covered share of a patch from which on an object counts
PATCHES_PER_OBJECT = 8  # roughly
CENTRE_WEIGHT = 10.0  # a centre's variance is about 0.03


class Lessons(nn.Module):
    """The linear layers that answer. They are dropped after the training."""

    def __init__(self, width: int, patch_size: int, text_width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(width, sum(PATCH_ANSWERS))
        self.fact = nn.Linear(width, len(COLOURS) * sum(FACT_ANSWERS))
        self.patch_fact = nn.Linear(width, len(COLOURS) * sum(FACT_ANSWERS))
        self.mask = nn.Linear(width, patch_size**2)
        self.side = nn.Linear(text_width, len(COLOURS) * (len(RELATIONS) + 1))

    def forward(self, half: Tensor, patches: Tensor, picture: Tensor, text: Tensor) -> "Answers":
        """Answers from patches ``[B, P, C]``, half-way and late, from pictures ``[B, C]`` and from
        texts ``[B, C]`` that are true of them."""
        split = (len(COLOURS), -1)
        return Answers(
            self.mask(half),
            self.patch(patches),
            self.patch_fact(patches).view(*patches.shape[:2], *split),
            self.fact(picture).view(len(picture), *split),
            self.side(text).view(len(text), *split),
        )


class Answers(NamedTuple):
    """Which pixels of each patch are an object's ``[B, P, pixels]``; what each patch shows ``[B, P, a]``;
    facts by colour from each patch ``[B, P, colours, f]`` and from pictures ``[B, colours, f]``; and the
    relation in which something of each colour stands, from texts ``[B, colours, r]``."""

    mask: Tensor
    patch: Tensor
    patch_fact: Tensor
    fact: Tensor
    side: Tensor


class Facts(NamedTuple):
    """For each colour: the shape of what has it (or `ABSENT`), its size, how many more of it there
    are, each ``[..., colours]``, and its centre ``[..., colours, 2]``."""

    shape: Tensor
    size: Tensor
    more: Tensor
    centre: Tensor

    def of_patches(self, colours: Tensor) -> "Facts":
        """What each patch shows of it, given the patches' colours ``[B, P]``: ``[B, P, ...]`` from
        ``[B, ...]``."""
        own = F.one_hot(colours, len(COLOURS)).bool()
        shape, size, more, centre = (
            fact[:, None].expand(-1, own.shape[1], *fact.shape[1:]) for fact in self
        )
        return Facts(torch.where(own, shape, ABSENT), size, more, centre)


def lesson_losses(
    answers: Answers, scenes: Sequence[Scene], masks: Tensor, related: Sequence[bool]
) -> Answers:
    """The loss of each answer, for scenes whose masks are ``[B, K, S, S]``. `related` says which of
    their texts tell how the coloured objects stand to each other."""
    device, (rows, patches) = answers.patch.device, answers.patch.shape[:2]
    pixels = masks.sum(dim=1, keepdim=True).clamp(max=1)  # of any object
    size = round(answers.mask.shape[2] ** 0.5)
    pixels = F.unfold(pixels, size, stride=size).transpose(1, 2)  # [B, P, pixels]
    shape, colour = (label.to(device) for label in patch_labels(scenes, masks, patches))
    by_shape, by_colour = torch.split(answers.patch.flatten(0, 1), PATCH_ANSWERS, dim=1)
    facts = Facts(*(fact.to(device) for fact in facts_of(scenes)))
    count = rows * patches / PATCHES_PER_OBJECT
    return Answers(
        F.binary_cross_entropy_with_logits(answers.mask, pixels.to(device)),
        F.cross_entropy(by_shape, shape.flatten()) + F.cross_entropy(by_colour, colour.flatten()),
        fact_loss(answers.patch_fact, facts.of_patches(colour), count),
        fact_loss(answers.fact, facts, rows),
        F.cross_entropy(
            answers.side.flatten(0, 1), sides(scenes, related).to(device).flatten(), reduction="sum"
        )
        / rows,
    )


def patch_labels(scenes: Sequence[Scene], masks: Tensor, patches: int) -> tuple[Tensor, Tensor]:
    """The shape in each patch, row by row, or `ABSENT`, and its colour, an object's or the
    background's: each ``[B, P]``."""
    covered = F.adaptive_avg_pool2d(masks, round(patches**0.5)).flatten(2)  # [B, K, P]
    most, which = covered.max(dim=1)
    shapes, colours = list(SHAPES), list(COLOURS)
    rows = []
    for scene in scenes:
        items = [(shapes.index(item.shape), colours.index(item.colour)) for item in scene.objects]
        items += [(0, 0)] * (masks.shape[1] - len(items))
        rows.append([*items, (ABSENT, colours.index(scene.background))])
    table = torch.tensor(rows)  # [B, K + 1, 2]
    nothing = torch.full_like(which, masks.shape[1])
    shape = table[:, :, 0].gather(1, torch.where(most >= PATCH_SHAPE, which, nothing))
    colour = table[:, :, 1].gather(1, torch.where(most >= PATCH_COLOUR, which, nothing))
    return shape, colour


def facts_of(scenes: Sequence[Scene]) -> Facts:
    """The facts of whole pictures, ``[B, ...]``. Where several objects are alike, the centre is the
    last one's."""
    shape = torch.full((len(scenes), len(COLOURS)), ABSENT)
    size, more = torch.zeros_like(shape), torch.zeros_like(shape)
    centre = torch.zeros(*shape.shape, 2)
    shapes, colours, sizes = list(SHAPES), list(COLOURS), list(SIZES)
    for b, scene in enumerate(scenes):
        for item in scene.objects:
            c = colours.index(item.colour)
            shape[b, c], size[b, c] = shapes.index(item.shape), sizes.index(item.size)
            more[b, c] = len(scene.objects) - 1 if scene.kind == "count" else 0
            centre[b, c] = torch.tensor([item.x, item.y])
    return Facts(shape, size, more, centre)


def sides(scenes: Sequence[Scene], related: Sequence[bool]) -> Tensor:
    """For each colour, the relation that a text tells of it, seen from the other object, or
    `NOT_SAID`: ``[B, colours]``."""
    side = torch.full((len(scenes), len(COLOURS)), NOT_SAID)
    relations, colours = list(RELATIONS), list(COLOURS)
    for b, scene in enumerate(scenes):
        if related[b] and scene.relation is not None:
            first, second = (colours.index(item.colour) for item in scene.objects)
            side[b, first] = relations.index(scene.relation)
            side[b, second] = relations.index(INVERSE[scene.relation])
    return side


def fact_loss(answers: Tensor, facts: Facts, count: float) -> Tensor:
    """The loss of answers ``[..., colours, f]``: a mean over all colours for whether there is
    something, and sums over what there is, divided by `count`, for its shape, size and number and,
    where it is alone, its centre."""
    by_shape, by_size, by_number, by_centre = torch.split(answers, FACT_ANSWERS, dim=-1)
    here = facts.shape != ABSENT
    alone = here & (facts.more == 0)
    loss = F.cross_entropy(by_shape.flatten(0, -2), facts.shape.flatten())
    for part, goal in ((by_shape, facts.shape), (by_size, facts.size), (by_number, facts.more)):
        loss = loss + F.cross_entropy(part[here], goal[here], reduction="sum") / count
    return loss + CENTRE_WEIGHT * (by_centre[alone] - facts.centre[alone]).square().sum() / count
