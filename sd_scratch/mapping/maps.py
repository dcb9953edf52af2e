"""`Map`: one number for every place of a picture, and what that number means."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sd_scratch.errors import UsageError


@dataclass(frozen=True, eq=False)
class Map:
    """How much a word has to do with each place of a picture. Never scaled for show.

    Attributes:
        tensor: ``[h, w]`` fp32 on the CPU; its cells cover the picture evenly.
        size: width and height of the picture in pixels.
        word: the word as it stands in the prompt.
        method: how it was made, in words.
        units: what a value of 1 means.
    """

    tensor: Tensor = field(repr=False)
    size: tuple[int, int]
    word: str
    method: str
    units: str


def largest(maps: Sequence[Map]) -> float:
    """The largest value of several maps, which a figure scales all of them by; 0 without any."""
    return max((float(m.tensor.max()) for m in maps), default=0.0)


def told_apart(words: Sequence[str]) -> list[str]:
    """Names for words of one prompt: those that stand there more than once are numbered, as
    `sd-scratch map -w` takes them (``a:1``, ``a:2``)."""
    total = Counter(word.casefold() for word in words)
    seen: Counter[str] = Counter()
    names = []
    for word in words:
        key = word.casefold()
        seen[key] += 1
        names.append(f"{word}:{seen[key]}" if total[key] > 1 else word)
    return names


def require_full_precision(dtype: torch.dtype) -> None:
    """Raise ScratchError (bad usage) unless small differences survive in `dtype`.

    Two pictures that differ by a hundredth of a word differ by less than half precision rounds.
    """
    if torch.finfo(dtype).bits < 32:
        name = str(dtype).removeprefix("torch.")
        raise UsageError(
            f"differences of pictures drown in the rounding of {name} - use --dtype float32, "
            "or the exact derivative",
        )
