"""Reductions: make a recorded tensor smaller before it is stored.

A reduction is bound to one tensor before the run, when the prompts are known; the bound function runs inside
the forward pass. Any function of a tensor works, too: it gets ``[B, ...]`` of one branch and returns the part
to keep.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.tensors.names import TensorInfo
from sd_scratch.tensors.words import Prompts, Worded, WordKey, word_matrix

__all__ = ["area", "heads", "mean_over_calls", "words"]


@dataclass(frozen=True)
class Bound:
    """A reduction, ready for one tensor.

    Attributes:
        axes: of the result; empty if they are not known.
        by_rows: whether it can be applied to some of the queries at a time.
    """

    apply: Callable[[Tensor], Tensor]
    axes: tuple[str, ...]
    by_rows: bool = False


@dataclass(frozen=True)
class Subject:
    """A tensor in a chain of reductions.

    Attributes:
        axes: its present axes.
        prompts: one for each row of the batch; none if it has several branches.
    """

    info: TensorInfo
    axes: tuple[str, ...]
    prompts: Sequence[Worded]
    device: torch.device

    def axis(self, *wanted: str) -> int:
        """The index of the first of these axes that the tensor has."""
        for name in wanted:
            if name in self.axes:
                return self.axes.index(name)
        have = ", ".join(self.axes) or "unknown"
        raise UsageError(
            f"{self.info.name} has no axis '{wanted[0]}' to reduce - its axes are {have}"
        )

    def size(self, axis: str) -> int:
        return self.info.shape[self.info.axes.index(axis)]

    def without(self, *gone: int) -> tuple[str, ...]:
        return tuple(axis for i, axis in enumerate(self.axes) if i not in gone)


class Reduction(Protocol):
    def bind(self, subject: Subject) -> Bound: ...


@dataclass(frozen=True)
class Mean:
    """The mean over an axis."""

    axis: str

    def bind(self, subject: Subject) -> Bound:
        i = subject.axis(self.axis)
        return Bound(lambda x: x.mean(dim=i), subject.without(i), self.axis != "query")


@dataclass(frozen=True)
class Pick:
    """Some places along an axis."""

    axis: str
    places: tuple[int, ...]

    def bind(self, subject: Subject) -> Bound:
        i, size = subject.axis(self.axis), subject.size(self.axis)
        if not all(-size <= place < size for place in self.places):
            raise UsageError(
                f"{subject.info.name} has {size} places along '{self.axis}', not all of {self.places}"
            )
        index = torch.tensor([place % size for place in self.places], device=subject.device)
        return Bound(lambda x: x.index_select(i, index), subject.axes, self.axis != "query")


@dataclass(frozen=True)
class Words:
    """The prompt's tokens joined into words: the sum of each word's tokens, or their mean."""

    words: tuple[WordKey, ...]
    mean: bool = False

    def bind(self, subject: Subject) -> Bound:
        i, tokens, prompts = subject.axis("token"), subject.size("token"), subject.prompts
        if not prompts:
            raise UsageError(
                f"the words of {subject.info.name} cannot be told without a prompt - record one"
                " branch, 'cond', during a run"
            )
        if subject.info.root != "text" or subject.info.name == "text.context":
            tokens = prompts[0].empty.shape[1]  # of all chunks, where the text encoder reads one
        matrix = torch.stack([word_matrix(p, self.words, tokens, self.mean) for p in prompts])
        between = [1] * (len(subject.axes) - 3)
        matrix = matrix.view(len(prompts), *between, tokens, len(self.words)).to(subject.device)

        def apply(x: Tensor) -> Tensor:
            return (x.movedim(i, -1) @ matrix.to(x.dtype)).movedim(-1, i)

        axes = (*subject.axes[:i], "word", *subject.axes[i + 1 :])
        return Bound(apply, axes, by_rows=True)


@dataclass(frozen=True)
class Area:
    """The mean over a box of the picture: top, left, bottom, right as shares of its sides, 0..1."""

    box: tuple[float, float, float, float]

    def bind(self, subject: Subject) -> Bound:
        hw = subject.info.hw
        if hw is None:
            raise ScratchError(f"{subject.info.name} has no place in the picture: no area to take")
        places = box_mask(self.box, hw).flatten().nonzero().squeeze(1).to(subject.device)
        i, picture = subject.axis("height", "query", "position"), "height" in subject.axes

        def apply(x: Tensor) -> Tensor:
            x = x.flatten(i, i + 1) if picture else x
            return x.index_select(i, places).mean(dim=i)

        return Bound(apply, subject.without(i, *([i + 1] if picture else [])))


def box_mask(box: tuple[float, float, float, float], hw: tuple[int, int]) -> Tensor:
    """True for the cells whose centres lie in the box: ``[h, w]``; never empty."""
    top, left, bottom, right = box
    if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
        raise UsageError(f"{box} is no area - give top, left, bottom and right, each from 0 to 1")
    rows, columns = ((torch.arange(n) + 0.5) / n for n in hw)
    mask = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
    if not mask.any():
        h, w = hw
        mask[int((top + bottom) / 2 * h), int((left + right) / 2 * w)] = True
    return mask


@dataclass(frozen=True)
class OverCalls:
    """The running mean over the recorded calls: one tensor for any number of calls. It is the last in a list
    of reductions."""


def words(*words: WordKey, mean: bool = False) -> Words:
    """Keep words instead of tokens; ``("cat", 2)`` is the second "cat" of the prompt."""
    return Words(words, mean)


def heads(*which: int) -> Mean | Pick:
    """Keep these attention heads; without any, the mean over all of them."""
    return Pick("head", which) if which else Mean("head")


def area(top: float, left: float, bottom: float, right: float) -> Area:
    """Keep the mean over a box of the picture; sides as shares of the whole, 0..1."""
    return Area((top, left, bottom, right))


mean_over_calls = OverCalls


AnyReduction = Reduction | Callable[[Tensor], Tensor]


def bind(
    reductions: Sequence[AnyReduction],
    info: TensorInfo,
    prompts: Prompts,
    branch: str | None,
    device: torch.device,
) -> list[Bound]:
    """The chain of reductions for one tensor."""
    rows = prompts.get(branch, ()) if branch is not None else ()
    chain: list[Bound] = []
    axes = info.axes
    for reduction in reductions:
        subject = Subject(info, axes, rows, device)
        bound = reduction.bind(subject) if hasattr(reduction, "bind") else Bound(reduction, ())
        chain.append(bound)
        axes = bound.axes
    return chain
