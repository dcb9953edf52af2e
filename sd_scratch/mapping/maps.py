"""`Map`: one number for every place of a picture, and what that number means."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sd_scratch.errors import UsageError

GREY_LEVELS = "grey levels, of 255"


@dataclass(frozen=True, eq=False)
class Map:
    """How much a word has to do with each place of a picture. Never scaled for show.

    Attributes:
        tensor: ``[h, w]`` fp32 on the CPU; its cells cover the picture evenly.
        size: width and height of the picture in pixels.
        word: its name, as `sd_scratch.mapping.words.name_of` gives it: ``red``, or ``red:2``.
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


def stretched(map_: Map) -> Map:
    """A map in grey levels: one that has them already as it is, another with its smallest value at 0
    and its largest at 255. A constant map becomes 0 everywhere."""
    if map_.units == GREY_LEVELS:
        return map_
    low, high = float(map_.tensor.min()), float(map_.tensor.max())
    tensor = (map_.tensor - low) * (255 / (high - low) if high > low else 0.0)
    return replace(map_, tensor=tensor, units="of 255, each word by itself")


def require_full_precision(dtype: torch.dtype) -> None:
    """Raise ScratchError (bad usage) unless small differences survive in `dtype`.

    Two pictures that differ by a hundredth of a word differ by less than half precision rounds.
    """
    if torch.finfo(dtype).bits < 32:
        name = str(dtype).removeprefix("torch.")
        raise UsageError(
            f"differences of pictures drown in the rounding of {name} - use float32, or the exact "
            "derivative"
        )
