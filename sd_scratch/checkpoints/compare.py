"""Two checkpoints, tensor by tensor: what differs, by how much, and where first in the order of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from sd_scratch.checkpoints.build import empty, squeezed, weights
from sd_scratch.checkpoints.layout import Layout
from sd_scratch.checkpoints.load import read_layout
from sd_scratch.checkpoints.safetensors_file import StoredTensor

SHOWN = 20


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
    found = []
    for name in dict.fromkeys([*_names(a), *_names(b)]):
        difference = _difference(name, _tensor(a, name), _tensor(b, name))
        found += [difference] if difference else []
    return found


def compare_networks(
    source: str | Path,
    networks: Mapping[str, nn.Module],
    *,
    revision: str | None = None,
    offline: bool = False,
) -> list[Difference]:
    """The same for a checkpoint and networks that are in memory, such as those of a model with adapters."""
    layout = read_layout(source, revision=revision, offline=offline)
    held = {f"{part}.{k}": v for part, net in networks.items() for k, v in net.state_dict().items()}
    found = []
    for name in dict.fromkeys([*_names(layout), *held]):
        stored, value = _tensor(layout, name), held.get(name)
        difference = _difference(name, stored, None if value is None else _Held(value))
        found += [difference] if difference else []
    return found


class _Held(NamedTuple):
    """A tensor in memory, read as one of a file is."""

    value: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    def read(self) -> Tensor:
        return self.value


def lines(found: Sequence[Difference]) -> list[str]:
    """For people: where the two part first, then the largest differences."""
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


def _names(layout: Layout) -> list[str]:
    """All names, in the order of the networks' modules."""
    return [
        f"{name}.{key}"
        for name, stored in layout.parts.items()
        for key in weights(empty(stored.part.network, stored.config))
    ]


def _tensor(layout: Layout, name: str) -> StoredTensor | None:
    part, _, key = name.partition(".")
    return layout.parts[part].tensors.get(key) if part in layout.parts else None


def _difference(
    name: str, a: StoredTensor | None, b: StoredTensor | _Held | None
) -> Difference | None:
    if a is None or b is None:
        return Difference(name, None, 0.0, f"is not in the {'first' if a is None else 'second'}")
    sides = min(len(a.shape), len(b.shape))
    if squeezed(a.shape, sides) != squeezed(b.shape, sides):
        return Difference(
            name, None, 0.0, f"{list(a.shape)} in the first, {list(b.shape)} in the other"
        )
    x = a.read().float()
    gap = float((x - b.read().float().reshape(x.shape)).abs().max())
    return None if gap == 0.0 else Difference(name, gap, float(x.abs().max()))
