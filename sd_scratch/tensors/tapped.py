"""The tap: the place in a network where a tensor can be read and replaced."""

import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Rows(NamedTuple):
    """A tensor that the forward pass itself does not make, such as the probabilities that a fused attention
    kernel never stores. It is computed a piece at a time.

    Attributes:
        make: a slice of the batch and a slice of the rows (axis -2) -> that piece of the tensor.
        batch: the size of its first axis.
        rows: its number of rows.
        width: numbers of one row, over all heads, for one element of the batch.
    """

    make: Callable[[slice, slice], Tensor]
    batch: int
    rows: int
    width: int


class Listener(Protocol):
    """A listener to named tensors: a recorder, an edit."""

    @property
    def on_path(self) -> bool:
        """Whether it needs the tensor of the forward pass itself, not a copy made beside it."""

    def hear(self, name: str, x: Tensor) -> Tensor:
        """Hear `x`, and return it or its replacement."""

    def hear_rows(self, name: str, rows: Rows) -> None:
        """Hear a tensor that is computed on request."""


class Running(threading.local):
    """The owner of taps whose call is running in this thread, or None outside of calls."""

    owner: object | None = None


running = Running()


class Ears(NamedTuple):
    """The listeners of one owner at one module, and their thread."""

    owner: object
    thread: int
    listeners: Mapping[str, list[tuple[str, Listener]]]  # leaf -> (full name, listener)


class Probe:
    """Passes a module's tensors on to its listeners.

    Models can share a module and threads a model: only listeners of the call that made a tensor hear it, in
    the thread that entered them.
    """

    def __init__(self, ears: tuple[Ears, ...]) -> None:
        self.ears = ears

    def listeners(self, leaf: str) -> list[tuple[str, Listener]]:
        """The listeners of a tensor that is made here and now."""
        if torch.compiler.is_compiling():  # a graph cannot ask who calls it: `Taps.calling` does
            return [pair for ear in self.ears for pair in ear.listeners.get(leaf, ())]
        owner, thread = running.owner, threading.get_ident()
        return [
            pair
            for ear in self.ears
            if ear.thread == thread and (owner is None or ear.owner is owner)
            for pair in ear.listeners.get(leaf, ())
        ]

    def tap(self, leaf: str, x: Tensor) -> Tensor:
        for name, listener in self.listeners(leaf):
            x = listener.hear(name, x)
        return x

    def show(self, leaf: str, make: Callable[[], Tensor]) -> None:
        if self.listeners(leaf):
            self.tap(leaf, make())

    def show_rows(self, leaf: str, rows: Rows) -> None:
        for name, listener in self.listeners(leaf):
            listener.hear_rows(name, rows)

    def given(self, leaf: str) -> Tensor | None:
        """A listener's value (`instead`) for a tensor that then need not be computed."""
        for name, listener in self.listeners(leaf):
            instead = getattr(listener, "instead", None)
            x: Tensor | None = None if instead is None else instead(name)
            if x is not None:
                return x
        return None

    def needs(self, *leaves: str) -> bool:
        """Whether one of these has to be part of the forward pass itself."""
        return any(listener.on_path for leaf in leaves for _, listener in self.listeners(leaf))


class Tapped(nn.Module):
    """A module that names tensors of its forward pass: ``x = self.tap("norm1", x)``.

    A tensor's full name is the module's path plus the leaf. Without listeners, `tap` returns its argument
    after one attribute check. (A probe is an attribute, not a forward hook, because compiled code notices
    changed attributes but not changed hooks.)

    `stepwise` says whether a network runs at every step or once, `branched` whether it runs with the prompt
    and its negative.
    """

    probe: Probe | None = None
    stepwise = True
    branched = True

    def tap(self, leaf: str, x: Tensor) -> Tensor:
        """Name a tensor of the forward pass; a listener can replace it."""
        probe = self.probe  # once: another thread may take it away
        return x if probe is None else probe.tap(leaf, x)

    def show(self, leaf: str, make: Callable[[], Tensor]) -> None:
        """Name a tensor that nothing is computed from: it is made only for listeners, and cannot be replaced."""
        probe = self.probe
        if probe is not None:
            probe.show(leaf, make)
