"""Two checkpoints, tensor by tensor: the differences, their size, and the first in the order of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sd_scratch.checkpoints.build import empty, squeezed, weights
from sd_scratch.checkpoints.layout import Layout
from sd_scratch.checkpoints.load import read_layout
from sd_scratch.checkpoints.pickle_file import HeldTensor
from sd_scratch.checkpoints.safetensors_file import StoredTensor

SHOWN = 20
PIECE = 1 << 15  # numbers that are compared at a time: they do not leave the processor's cache


@dataclass(frozen=True)
class Difference:
    """One tensor. `largest` is the largest difference of two numbers, None where one model lacks the
    tensor or has it in another shape, as `note` says; `scale` the largest number of the first one."""

    name: str
    largest: float | None
    scale: float
    note: str = ""


def compare(
    first: str | Path, second: str | Path, *, revision: str | None = None, offline: bool = False
) -> list[Difference]:
    """The tensors that differ, in the order in which a run meets them. A tensor is read at a time.

    Numbers are compared in float32, whatever they are stored as. Raises ScratchError as loading does.
    """
    a, b = (read_layout(source, revision=revision, offline=offline) for source in (first, second))
    return _differences(_tensors(a), _tensors(b))


def compare_networks(
    source: str | Path,
    networks: Mapping[str, nn.Module],
    *,
    revision: str | None = None,
    offline: bool = False,
) -> list[Difference]:
    """The same for a checkpoint and networks in memory, such as those of a model with adapters."""
    layout = read_layout(source, revision=revision, offline=offline)
    held = {
        f"{part}.{key}": HeldTensor.of(layout.path, key, value)
        for part, network in networks.items()
        for key, value in network.state_dict().items()
    }
    return _differences(_tensors(layout), held)


def lines(found: Sequence[Difference]) -> list[str]:
    """Lines for people: the first difference, then the largest ones."""
    if not found:
        return ["no tensor differs"]
    text = [f"{len(found)} tensors differ, in the order of a run first {found[0].name}"]
    order = sorted(found, key=lambda d: -1.0 if d.largest is None else -d.largest)
    for d in [d for d in order if d.largest is None][:SHOWN]:
        text.append(f"{d.name}: {d.note}")
    for d in [d for d in order if d.largest is not None][:SHOWN]:
        text.append(
            f"{d.name}: by up to {d.largest:.3g}, where the largest number is {d.scale:.3g}"
        )
    return text


def _tensors(layout: Layout) -> dict[str, StoredTensor]:
    """A checkpoint's tensors by name, in the order of the networks' modules."""
    return {
        f"{name}.{key}": stored.tensors[key]
        for name, stored in layout.parts.items()
        for key in weights(empty(stored.part.network, stored.config))
        if key in stored.tensors
    }


def _differences(
    first: Mapping[str, StoredTensor], second: Mapping[str, StoredTensor]
) -> list[Difference]:
    found = (
        _difference(name, first.get(name), second.get(name))
        for name in dict.fromkeys([*first, *second])
    )
    return [difference for difference in found if difference is not None]


def _difference(name: str, a: StoredTensor | None, b: StoredTensor | None) -> Difference | None:
    if a is None or b is None:
        return Difference(name, None, 0.0, f"is not in the {'first' if a is None else 'second'}")
    sides = min(len(a.shape), len(b.shape))
    if squeezed(a.shape, sides) != squeezed(b.shape, sides):
        return Difference(
            name, None, 0.0, f"{list(a.shape)} in the first, {list(b.shape)} in the other"
        )
    gaps, scales = [torch.zeros(())], [torch.zeros(())]
    for p, q in zip(a.pieces(PIECE), b.pieces(PIECE), strict=True):
        gaps += (p.float() - q.float()).aminmax()
        scales += p.float().aminmax()
    gap = float(torch.stack(gaps).abs().max())  # of numbers that are none, too
    return Difference(name, gap, float(torch.stack(scales).abs().max())) if gap != 0.0 else None
