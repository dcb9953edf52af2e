"""`Trace`: the values of a recording, in memory or on disk, by name, call and branch."""

import math
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.files import at_home
from sd_scratch.limits import are_digits
from sd_scratch.tensors.names import nearest
from sd_scratch.tensors.storage import (
    MANIFEST,
    Stored,
    damaged,
    file_in,
    read_manifest,
    read_tensors,
    shards,
    write_folder,
)

FORMAT, VERSION = "sd_scratch trace", 1
INPUTS = "inputs.safetensors"


class Address(NamedTuple):
    """The address of one value, ``name@call:branch``, without the parts that it does not have.

    `call` counts the U-Net's calls in a run from 0. It is never the timestep: PNDM visits one twice.
    """

    name: str
    call: int | None = None
    branch: str = ""

    def __str__(self) -> str:
        call = "" if self.call is None else f"@{self.call}"
        return self.name + call + (f":{self.branch}" if self.branch else "")

    @classmethod
    def parse(cls, text: str) -> "Address":
        rest, _, branch = text.partition(":")
        name, _, call = rest.partition("@")
        if call and not are_digits(call):
            raise UsageError(f"'{text}' is no address - write name@call:branch")
        return cls(name, int(call) if call else None, branch)


@dataclass(frozen=True)
class Kept:
    """What one recorded name keeps: its axes after the reductions, and their labels."""

    axes: tuple[str, ...]
    hw: tuple[int, int] | None = None
    words: tuple[str, ...] = ()
    averaged: bool = False  # over the calls

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> "Kept":
        match plain:
            case {
                "axes": list(axes),
                "hw": None | [int(), int()] as hw,
                "words": list(words),
                "averaged": bool(averaged),
            } if all(isinstance(text, str) for text in [*axes, *words]):
                place = None if hw is None else (hw[0], hw[1])
                return cls(tuple(axes), place, tuple(words), averaged)
        raise ValueError(f"what is kept of a tensor: {plain!r:.80}")


class Live(NamedTuple):
    """A recorded tensor itself, still part of the computation, and one branch's place in it."""

    whole: Tensor
    place: slice


class Moment(NamedTuple):
    """A call's place in a run: its timestep, and its noise relative to the signal."""

    t: float
    sigma: float

    @classmethod
    def parse(cls, plain: Any) -> "Moment":
        match plain:
            case [float() | int() as t, float() | int() as sigma] if t == t and sigma == sigma:
                return cls(t, sigma)
        raise ValueError(f"the moment of a call: {plain!r:.80}")


@dataclass(frozen=True)
class Recording:
    """One tensor over the recorded calls and branches.

    Attributes:
        tensor: its axes are named by `axes`; ``call`` and ``branch`` come first if it has them.
        calls: the call of each place on the ``call`` axis, with `t` and `sigma` beside it. A running mean has
            no such axis, and these are its calls.
        hw: height and width of the feature map that its positions belong to.
        words: the labels of the ``word`` axis.
    """

    name: str
    tensor: Tensor = field(repr=False)
    axes: tuple[str, ...]
    calls: tuple[int, ...] = ()
    t: tuple[float, ...] = ()
    sigma: tuple[float, ...] = ()
    branches: tuple[str, ...] = ()
    hw: tuple[int, int] | None = None
    words: tuple[str, ...] = ()

    def maps(self) -> Tensor:
        """The tensor with its row of positions folded back into height and width."""
        for axis in ("query", "position"):
            if axis in self.axes and self.hw is not None:
                i, shape = self.axes.index(axis), self.tensor.shape
                if math.prod(self.hw) != shape[i]:
                    raise ScratchError(f"{self.name} has {shape[i]} positions, not {self.hw}")
                return self.tensor.reshape(*shape[:i], *self.hw, *shape[i + 1 :])
        raise ScratchError(f"{self.name} has no row of positions - its axes are {self.axes}")


class Describable(Protocol):
    """An edit that can describe itself."""

    def describe(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """As JSON; tensors go into `tensors` and are named."""


@dataclass(eq=False, repr=False)
class Trace:
    """What was recorded: ``trace["unet.h"]``, ``trace["unet.h@3"]``, ``trace["unet.h@3:cond"]``.

    Attributes:
        values: every value by its address; a trace from disk reads them at access.
        moments: timestep and sigma of every recorded call.
        facts: what repeats the run: prompts, seeds, sampler, weights, ...
        edits: the active ones, as data.
        inputs: tensors that the run needs beside the facts: its noise, and those of its edits.
        branch: the only recorded one, or None: then it is an axis.
    """

    values: MutableMapping[Address, Tensor] = field(default_factory=dict)
    kept: dict[str, Kept] = field(default_factory=dict)
    moments: dict[int, Moment] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    edits: list[dict[str, Any]] = field(default_factory=list)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    branch: str | None = None
    editors: tuple["Describable", ...] = ()  # while the trace is in memory, instead of `edits`
    live: dict[Address, Live] = field(default_factory=dict)  # on request, for their gradients

    def __repr__(self) -> str:
        return f"<Trace of {len(self.names)} tensors, {len(self.moments)} calls>"

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(address.name for address in self.values))

    @property
    def bytes(self) -> int:
        return sum(value.nbytes for value in self.values.values())

    def __contains__(self, name: str) -> bool:
        return any(address.name == name for address in self.values)

    def __getitem__(self, address: str) -> Recording:
        return self._read(Address.parse(address), self.values)

    def save(self, folder: str | Path) -> Path:
        """Write the trace into a new folder, all of it or nothing.

        Raises ScratchError if the target exists, or cannot be written.
        """
        inputs = dict(self.inputs)
        edits = [editor.describe(inputs) for editor in self.editors] or self.edits
        files = {
            f"values-{i:05}.safetensors": part for i, part in enumerate(shards(self.values), 1)
        }
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "run": self.facts,
            "edits": edits,
            "branch": self.branch,
            "steps": {str(call): list(moment) for call, moment in self.moments.items()},
            "tensors": {name: asdict(self.kept[name]) for name in self.names},
            "files": {name: list(part) for name, part in files.items()},
        }
        write_folder(Path(folder), {**files, INPUTS: inputs}, manifest)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> "Trace":
        """Open a trace. Its tensors stay on disk, and are read at access.

        Raises ScratchError for a folder that is no trace, damaged, or of another version.
        """
        folder = at_home(folder)
        manifest = read_manifest(folder)
        kind = (manifest.get("format"), manifest.get("version"))
        if kind != (FORMAT, VERSION):
            raise ScratchError(
                f"{folder} is {kind[0]} {kind[1]}, and {FORMAT} {VERSION} is known - it was written by"
                " another program or version"
            )
        try:
            values = Stored(
                {
                    Address.parse(address): file_in(folder, file)
                    for file, addresses in manifest["files"].items()
                    for address in addresses
                }
            )
            trace = cls(
                values=values,
                kept={name: Kept.parse(each) for name, each in manifest["tensors"].items()},
                moments={int(call): Moment.parse(m) for call, m in manifest["steps"].items()},
                facts=dict(manifest["run"]),
                edits=list(manifest["edits"]),
                inputs=read_tensors(folder / INPUTS),
                branch=manifest["branch"],
            )
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise damaged(folder / MANIFEST, f"{type(error).__name__} {error}") from None
        values.check()
        if trace.branch is not None and any(a.branch not in ("", trace.branch) for a in values):
            raise damaged(folder / MANIFEST, f"it has more than the branch {trace.branch!r:.40}")
        if unknown := set(trace.names) ^ trace.kept.keys():
            raise damaged(folder / MANIFEST, f"it knows {min(unknown)} in one place alone")
        return trace

    def gradient(self, address: str) -> Recording:
        """The gradient of a tensor recorded with ``gradients=True``, after ``backward()``."""
        wanted = Address.parse(address)
        grads = {
            address: live.whole.grad[live.place]
            for address, live in self.live.items()
            if live.whole.grad is not None
        }
        if not any(a.name == wanted.name for a in grads):
            raise ScratchError(
                f"no gradient of {wanted.name} - record with gradients=True and call backward() first"
            )
        return self._read(wanted, grads)

    def _read(self, wanted: Address, values: Mapping[Address, Tensor]) -> Recording:
        found = [address for address in values if address.name == wanted.name]
        if not found:
            near = ", ".join(nearest(wanted.name, self.names)) or "nothing was"
            raise UsageError(f"'{wanted.name}' was not recorded - nearest: {near}")
        calls = sorted({a.call for a in found}, key=lambda call: -1 if call is None else call)
        branches = list(dict.fromkeys(a.branch for a in found))
        if wanted.call is not None:
            calls = [wanted.call]
        if wanted.branch:
            branches = [wanted.branch]
        grid = [[Address(wanted.name, call, branch) for branch in branches] for call in calls]
        for address in (address for row in grid for address in row):
            if address not in values:
                have = ", ".join(str(a) for a in found[:4])
                raise UsageError(f"'{address}' was not recorded - there is {have}")

        kept = self.kept[wanted.name]
        axes, rows = kept.axes, [[values[address] for address in row] for row in grid]
        if wanted.branch or self.branch or branches == [""]:
            by_call = [row[0] for row in rows]
        else:
            by_call, axes = [torch.stack(row) for row in rows], ("branch", *axes)
        if wanted.call is not None or calls == [None]:
            tensor = by_call[0]
        else:
            tensor, axes = torch.stack(by_call), ("call", *axes)
        if kept.axes and tensor.ndim != len(axes):  # those of somebody's own reduction are unknown
            raise ScratchError(f"{wanted.name} has {tensor.ndim} axes, not {', '.join(axes)}")
        numbers = sorted(self.moments) if kept.averaged else [c for c in calls if c is not None]
        moments = [self.moments.get(call, Moment(math.nan, math.nan)) for call in numbers]
        return Recording(
            name=wanted.name,
            tensor=tensor,
            axes=axes,
            calls=tuple(numbers),
            t=tuple(moment.t for moment in moments),
            sigma=tuple(moment.sigma for moment in moments),
            branches=tuple(branch for branch in branches if branch),
            hw=kept.hw,
            words=kept.words,
        )


def values_of(trace: Any) -> Mapping[Address, Tensor]:
    """What a trace holds. Raises UsageError for anything else, such as a folder's name."""
    if not isinstance(trace, Trace):
        raise UsageError(f"give a recorded trace, or sd.Trace.load(folder), not {trace!r:.80}")
    return trace.values
