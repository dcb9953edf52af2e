"""`Taps`: the switchboard between networks and listeners to their tensors."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.tensors.names import TensorInfo, match, survey
from sd_scratch.tensors.tapped import Ears, Listener, Probe, Rows, Tapped, running
from sd_scratch.tensors.unofficial import is_compiled, uncompiled
from sd_scratch.tensors.words import Prompts

HW = tuple[int, int]
DryRun = Callable[[Mapping[str, nn.Module], HW | None], None]
"""Calls copies of the networks on the ``meta`` device, for latents of a size (None: any size)."""


class StopRun(Exception):
    """Ends a run early for a recorder, which also catches it."""


@dataclass(frozen=True)
class Call:
    """One forward pass of a network, as listeners see it.

    `index` counts the calls of a run from 0. `branches` are those in the batch, in order, each an equal share of
    it; a branch None has no listeners. `edits` is false if the call must not be edited.
    """

    index: int | None = None
    t: float | None = None
    sigma: float | None = None
    branches: tuple[str | None, ...] = ("",)
    edits: bool = True

    def parts(self, info: TensorInfo, batch: int) -> list[tuple[str, slice]]:
        """Each branch with listeners, and its place in the batch."""
        if not info.branched:
            return [("", slice(0, batch))]
        share = batch // len(self.branches)
        return [
            (branch, slice(i * share, (i + 1) * share))
            for i, branch in enumerate(self.branches)
            if branch is not None
        ]


@dataclass(frozen=True)
class Run:
    """What is known of a run before it starts.

    Attributes:
        hw: height and width of the latent.
        calls: how often the U-Net will be called.
        batch: how many pictures are made.
        facts: what is needed to repeat the run, as JSON; `inputs` are its tensors.
    """

    hw: HW | None = None
    calls: int | None = None
    batch: int = 1
    branches: tuple[str, ...] = ()
    prompts: Prompts = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)


class _LazyRun:
    """A run's description, built on first use."""

    def __init__(self, describe: Callable[[], Run]) -> None:
        self.describe = describe

    @cached_property
    def known(self) -> Run:
        return self.describe()


Listening = TypeVar("Listening", bound="ByCalls")


class ByCalls:
    """A listener with ``calls=``, which are not steps."""

    def __new__(cls: type[Listening], *args: object, **settings: object) -> Listening:
        if "steps" in settings:
            raise UsageError(
                "steps: the name is calls, of the U-Net - a step of some samplers takes two of them"
            )
        return super().__new__(cls)


class Member:
    """A listener managed by a `Taps`. This one hears every call that can be edited, and plans and keeps
    nothing.

    Attributes:
        names: the tensors that it listens to.
        order: 0 records before the edits, 1 edits, 2 records after them.
        on_path: see `Listener`.
        gradients: whether it needs gradients.
        kept_bytes: what it will keep of the current run, on the networks' device.
    """

    names: Mapping[str, TensorInfo]
    order = 1
    on_path = False
    gradients = False
    kept_bytes = 0

    def hears(self, root: str, but: Sequence[str] = ()) -> bool:
        """Whether it listens to a tensor under `root`, except those named `but`."""
        return any(i.root == root and name not in but for name, i in self.names.items())

    def prepare(self, run: Run) -> None:
        """At the start of a run: plan for it, or refuse."""

    def wants(self, call: Call) -> bool:
        """Whether it listens to this call."""
        return call.edits

    def begin(self, call: Call) -> None:
        """A call that it wants begins."""

    def hear(self, name: str, x: Tensor) -> Tensor:
        return x

    def hear_rows(self, name: str, rows: Rows) -> None:
        pass

    def collect(self, call: Call | None) -> None:
        """At the end of a call: store what was heard, or drop it if the call failed (None)."""


class _State(threading.local):
    """The state of one thread: threads that share a model do not see each other's runs."""

    def __init__(self) -> None:
        self.call = Call()
        self.runs: list[_LazyRun] = []
        self.members: list[Member] = []
        self.attached: list[Member] = []
        self.probed: list[Tapped] = []


_attaching = threading.RLock()


class Taps:
    """Names, recordings and edits of the tensors of some networks.

    A recording or edit acts on runs of the thread that entered it, and of this `Taps` only: other models on
    the same networks, and other threads, do not notice it.

    `roots` are the networks by the first part of their tensors' names; `dry_run` calls every one of them once.
    """

    def __init__(self, roots: Mapping[str, nn.Module], dry_run: DryRun) -> None:
        self.roots = roots
        self._here = _State()
        self._dry_run = dry_run
        self._tables: dict[HW | None, dict[str, TensorInfo]] = {}

    @classmethod
    def of(cls, root: str, network: nn.Module, *inputs: Tensor) -> "Taps":
        """The taps of one network that is called with inputs like these."""
        empty = [torch.empty_like(x, device="meta") for x in inputs]
        return cls({root: network}, lambda roots, hw: roots[root](*empty))

    @property
    def call(self) -> Call:
        """The running call in this thread."""
        return self._here.call

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        tensors = (p for network in self.roots.values() for p in network.parameters())
        return next(tensors, torch.empty(0)).device

    # Names ----------------------------------------------------------------------------------

    def tensors(self, *globs: str, hw: HW | None = None) -> dict[str, TensorInfo]:
        """The tensors that the globs match (all by default), without running anything.

        `hw` is the latent's size. Raises ScratchError for a glob without a match.
        """
        for glob in globs:
            if not isinstance(glob, str):
                raise UsageError(f"globs: give tensors' names as texts, not {glob!r}")
        if hw not in self._tables:
            self._tables[hw] = survey(self.roots, lambda roots: self._dry_run(roots, hw))
        return match(globs, self._tables[hw]) if globs else self._tables[hw]

    # Listeners ------------------------------------------------------------------------------

    def enter(self, member: Member) -> None:
        if member in self._here.members:
            raise ScratchError("this recording or edit is active already - make a second one")
        if self.run.calls is not None:  # in the middle of a run
            member.prepare(self.run)
        self._here.members.append(member)
        self._attach()
        member.begin(self._here.call)

    def leave(self, member: Member) -> None:
        self._here.members.remove(member)
        self._attach()
        member.collect(self._here.call)

    @contextmanager
    def joined(self, *members: Member) -> Iterator[None]:
        """More listeners for the calls inside; they are already planned for the run."""
        self._here.members.extend(members)
        try:
            yield
        finally:
            for member in members:
                self._here.members.remove(member)
            if members:
                self._attach()

    @property
    def members(self) -> tuple[Member, ...]:
        """All listeners, in the order in which they were entered."""
        return tuple(self._here.members)

    def wants(self, root: str, *but: str) -> bool:
        """Whether any member listens to a tensor under `root`, except those named `but`."""
        return any(member.hears(root, but) for member in self._here.members)

    def edits(self, root: str, *but: str) -> bool:
        """Whether any member needs such a tensor on the path to the picture."""
        return any(m.on_path and m.hears(root, but) for m in self._here.members)

    @property
    def gradients(self) -> bool:
        """Whether any member needs gradients."""
        return any(member.gradients for member in self._here.members)

    @property
    def kept_bytes(self) -> int:
        """What the recordings of the current run will keep on the networks' device."""
        return sum(member.kept_bytes for member in self._here.members)

    # Runs and calls -------------------------------------------------------------------------

    @property
    def run(self) -> Run:
        """The current run; without one, an empty description."""
        return self._here.runs[-1].known if self._here.runs else Run()

    @contextmanager
    def running(self, describe: Callable[[], Run]) -> Iterator[None]:
        """A run: every listener plans for it first, and can refuse it. Without listeners nothing is
        described."""
        mine = _LazyRun(describe)
        self._here.runs.append(mine)
        try:
            for member in self._here.members:
                member.prepare(mine.known)
            yield
        finally:
            self._here.runs.remove(mine)  # not always the last: one that is given up may end late

    def finish(self, **facts: Callable[[], Any]) -> None:
        """Add what is only known at the end to the description of the run, if there is one."""
        if self._here.runs and "known" in vars(self._here.runs[-1]):
            self.run.facts.update({key: value() for key, value in facts.items()})

    @contextmanager
    def calling(
        self,
        index: int | None = None,
        t: float | None = None,
        sigma: float | None = None,
        branches: Sequence[str | None] = ("",),
        edits: bool = True,
    ) -> Iterator[None]:
        """One forward pass: describe it, and store what was heard at its end.

        Raises UsageError if a network is compiled, and another thread or model listens to its tensors.
        """
        before, running.owner = running.owner, self
        try:
            with self._alone(), self._heard(Call(index, t, sigma, tuple(branches), edits)):
                yield
        finally:
            running.owner = before

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Compiled code does not know whose call it is, so all listeners would hear it, and their edits act.
        During a call no listener can start."""
        networks = [network for network in self.roots.values() if is_compiled(network)]
        if not networks:
            yield
            return
        with _attaching:
            modules = [m for network in networks for m in uncompiled(network).modules()]
            if any(isinstance(m, Tapped) and m.probe and self._others(m.probe) for m in modules):
                raise UsageError(
                    "this network is compiled, and another thread or model records or edits its tensors:"
                    " the two runs would not be kept apart - load the model once for each, or do not compile it"
                )
            yield

    @contextmanager
    def _heard(self, call: Call) -> Iterator[None]:
        if not self._here.members:
            yield
            return
        for member in self._here.attached:
            member.collect(self._here.call)  # what was heard between the calls
        outer, self._here.call = self._here.call, call
        self._attach()
        for member in self._here.attached:
            member.begin(self._here.call)
        complete = False
        try:
            yield
            complete = True
        except StopRun:
            complete = True  # what was heard until then is what was asked for
            raise
        finally:
            for member in self._here.attached:
                member.collect(self._here.call if complete else None)
            self._here.call = outer
            self._attach()

    def _attach(self) -> None:
        """Put a probe at every module with listeners, and at no other."""
        wanted = [m for m in self._here.members if m.wants(self._here.call)]
        wanted.sort(key=lambda member: member.order)
        if wanted == self._here.attached:
            return
        heard: dict[str, dict[str, list[tuple[str, Listener]]]] = {}
        for member in wanted:
            for name, info in member.names.items():
                heard.setdefault(info.path, {}).setdefault(info.leaf, []).append((name, member))
        with _attaching:
            for module in self._here.probed:
                self._hang(module, None)
            self._here.probed = [self._module(path) for path in heard]
            for module, listeners in zip(self._here.probed, heard.values(), strict=True):
                self._hang(module, listeners)
        self._here.attached = wanted

    def _hang(
        self, module: Tapped, listeners: Mapping[str, list[tuple[str, Listener]]] | None
    ) -> None:
        """Replace this thread's listeners at a module."""
        ears = () if module.probe is None else self._others(module.probe)
        if listeners is not None:
            ears = (*ears, Ears(self, threading.get_ident(), listeners))
        if ears:
            module.probe = Probe(ears)
        elif module.probe is not None:
            del module.probe  # not None: compiled code then finds the module as it was at first

    def _others(self, probe: Probe) -> tuple[Ears, ...]:
        """The listeners of other threads and models."""
        thread = threading.get_ident()
        return tuple(ear for ear in probe.ears if ear.owner is not self or ear.thread != thread)

    def _module(self, path: str) -> Tapped:
        root, _, rest = path.partition(".")
        module = uncompiled(self.roots[root]).get_submodule(rest)
        assert isinstance(module, Tapped)
        return module
