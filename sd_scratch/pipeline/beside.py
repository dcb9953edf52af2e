"""Two runs compared: the first named tensor that differs, and by how much.

A run is stored as one `Sketch` for each tensor, branch and call: at most `SAMPLE` of its numbers, spread over
all of it, and two figures of the whole. For Stable Diffusion 1.x that is 0.2 GB a call, instead of 5 for the
tensors. The two models need not be in memory at once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sd_scratch.pipeline.conditioning import Texts
from sd_scratch.pipeline.image_noise import ImageNoise
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.tensors import Address, Rows, Taps, TensorInfo
from sd_scratch.tensors.taps import Member

SAMPLE = 32_768
BESIDE = ("scores", "probs", "result")  # follow from q, k and v, and take most of the memory


@dataclass(frozen=True)
class Sketch:
    """A sample of a tensor ``[B, ...]``: its shape, some of its `numbers` in fp32, the `largest` of all and
    their `total`."""

    shape: tuple[int, ...]
    numbers: Tensor
    largest: float
    total: float

    @classmethod
    def of(cls, x: Tensor) -> "Sketch":
        flat = x.detach().reshape(-1)
        stride = max(1, math.ceil(flat.numel() / SAMPLE))
        while math.gcd(stride, flat.numel()) > 1 and stride > 1:
            stride += 1  # one that walks through every place of every axis
        numbers = flat[::stride].to("cpu", torch.float32, copy=True)
        return cls(
            tuple(x.shape), numbers, float(flat.abs().max()), float(flat.sum(dtype=torch.float64))
        )


Sketches = dict[Address, Sketch]


@dataclass(frozen=True)
class Parting:
    """A tensor in which two runs differ. `largest` is the largest difference of the sampled numbers, None if
    one run lacks the tensor or has it in another shape (`note`); `scale` is the largest number of the first
    run's tensor."""

    address: str
    largest: float | None
    scale: float
    note: str = ""

    @property
    def relative(self) -> float:
        """The difference as a share of the largest number."""
        return (
            math.inf if self.largest is None else self.largest / max(self.scale, math.ulp(1.0) ** 2)
        )

    def __str__(self) -> str:
        if self.largest is None:
            return f"{self.address}: {self.note}"
        note = f" ({self.note})" if self.note else ""
        return (
            f"{self.address}: by up to {self.largest:.3g}, where the largest number is"
            f" {self.scale:.3g}{note}"
        )


class Sketcher(Member):
    """Keeps a sketch of every tensor that it listens to; one of a model's `Taps`."""

    order = 2

    def __init__(self, taps: Taps, names: Mapping[str, TensorInfo]) -> None:
        self.taps, self.names = taps, names
        self.found: Sketches = {}

    def hear(self, name: str, x: Tensor) -> Tensor:
        call = self.taps.call
        for branch, where in call.parts(self.names[name], x.shape[0]):
            self.found[Address(name, call.index, branch)] = Sketch.of(x[where])
        return x

    def hear_rows(self, name: str, rows: Rows) -> None:
        self.hear(name, rows.make(slice(None), slice(0, rows.rows)))


def choose_tensors(model: StableDiffusion, globs: Sequence[str]) -> dict[str, TensorInfo]:
    """The tensors that the globs match; without globs, all except large ones that follow from others.
    Raises UsageError for a glob that matches nothing."""
    chosen = model.taps.tensors(*globs)
    return {name: info for name, info in chosen.items() if globs or info.leaf not in BESIDE}


@torch.no_grad()
def sketch_run(
    model: StableDiffusion,
    prompt: Texts,
    noise: ImageNoise,
    globs: Sequence[str] = (),
    **settings: Any,
) -> Sketches:
    """Make a picture, decoding included, and keep a sketch of its tensors in the order in which they are made.

    `settings` are those of `StableDiffusion.steps`. Raises the same errors, and UsageError for a glob without
    a match.
    """
    sketcher = Sketcher(model.taps, choose_tensors(model, globs))
    model.taps.enter(sketcher)
    try:
        model.generate(prompt, noise, **settings).decode()
    finally:
        model.taps.leave(sketcher)
    return sketcher.found


def part(first: Sketches, second: Sketches, tolerance: float = 0.0) -> list[Parting]:
    """The tensors in which two runs differ by more than `tolerance` of the largest number, in the first run's
    order."""
    every = dict.fromkeys([*first, *(address for address in second if address not in first)])
    found = [_difference(str(key), first.get(key), second.get(key)) for key in every]
    return [d for d in found if d is not None and (d.relative > tolerance or d.note)]


def _difference(address: str, a: Sketch | None, b: Sketch | None) -> Parting | None:
    if a is None or b is None:
        return Parting(address, None, 0.0, f"is not in the {'first' if a is None else 'second'}")
    if a.shape != b.shape:
        return Parting(
            address, None, 0.0, f"{list(a.shape)} in the first, {list(b.shape)} in the other"
        )
    gap = float((a.numbers - b.numbers).abs().nan_to_num(math.inf).max()) if len(a.numbers) else 0.0
    if gap == 0.0 and (a.total, a.largest) == (b.total, b.largest):
        return None
    return Parting(address, gap, a.largest, "" if gap else "in numbers that were not kept")


def lines(first: Sketches, second: Sketches, tolerance: float = 0.0) -> list[str]:
    """Lines for people: the first tensor that differs, and the largest difference in each part of the run."""
    found, every = part(first, second, tolerance), part(first, second)
    compared = f"{len(first):,} tensors of the run compared"
    within = f"by more than {tolerance:g} of its largest number" if tolerance else "in any bit"
    if not every:
        return [f"{compared}: none differs"]
    if found:
        text = [f"{compared}, {len(found):,} differ {within}; the first is", str(found[0])]
    else:
        text = [f"{compared}: none differs {within}"]
    worst: dict[str, Parting] = {}
    for difference in every:
        root = difference.address.partition(".")[0]
        if root not in worst or difference.relative > worst[root].relative:
            worst[root] = difference
    return [*text, "most, for its size, in each part:", *map(str, worst.values())]
