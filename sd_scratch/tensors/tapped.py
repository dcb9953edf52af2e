"""The tap: the place in a network where a tensor shows itself, and where it can be replaced."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor, nn


class Rows(NamedTuple):
    """A tensor that the forward pass itself does not make, such as the probabilities that a fused
    attention kernel never writes down. It can be had a piece at a time.

    Attributes:
        make: a slice of the batch and a slice of the rows (axis -2) -> that piece of the tensor.
        batch: the size of its first axis.
        rows: how many rows it has.
        width: how many numbers one row has, over all heads, for one element of the batch.
    """

    make: Callable[[slice, slice], Tensor]
    batch: int
    rows: int
    width: int


class Listener(Protocol):
    """Whoever listens to named tensors: a recorder, an edit."""

    @property
    def on_path(self) -> bool:
        """Whether it needs the tensor that the forward pass goes on with, not a copy made beside it."""

    def hear(self, name: str, x: Tensor) -> Tensor:
        """Take notice of `x` and return it, or what shall stand in its place."""

    def hear_rows(self, name: str, rows: Rows) -> None:
        """Take notice of a tensor that has to be asked for."""


class Probe:
    """Sits at one module while somebody listens, and passes on the tensors of that module."""

    def __init__(self) -> None:
        self.listeners: dict[str, list[tuple[str, Listener]]] = {}  # leaf -> (full name, listener)

    def tap(self, leaf: str, x: Tensor) -> Tensor:
        for name, listener in self.listeners.get(leaf, ()):
            x = listener.hear(name, x)
        return x

    def show(self, leaf: str, make: Callable[[], Tensor]) -> None:
        if leaf in self.listeners:
            self.tap(leaf, make())

    def show_rows(self, leaf: str, rows: Rows) -> None:
        for name, listener in self.listeners.get(leaf, ()):
            listener.hear_rows(name, rows)

    def needs(self, *leaves: str) -> bool:
        """Whether one of these has to be part of the forward pass itself."""
        return any(
            listener.on_path for leaf in leaves for _, listener in self.listeners.get(leaf, ())
        )


class Tapped(nn.Module):
    """A module that names tensors of its forward pass: ``x = self.tap("norm1", x)``.

    A tensor's full name is the module's path plus the leaf. While nobody listens, `tap` returns its
    argument after one attribute check. (A probe is an attribute, not a forward hook, because
    compiled code sees attributes change and does not see hooks come and go.)

    A network says how often it runs: at every step or once (`stepwise`), and with the prompt and its
    negative or not (`branched`).
    """

    probe: Probe | None = None
    stepwise = True
    branched = True

    def tap(self, leaf: str, x: Tensor) -> Tensor:
        """Name a tensor that the forward pass goes on with; whoever listens may replace it."""
        return x if self.probe is None else self.probe.tap(leaf, x)

    def show(self, leaf: str, make: Callable[[], Tensor]) -> None:
        """Name a tensor that leads nowhere: it is made when somebody listens, and only to be seen."""
        if self.probe is not None:
            self.probe.show(leaf, make)
