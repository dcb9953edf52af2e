"""Recording: a `Recorder` listens to tensors and fills a `Trace`, without changing a bit of the run."""

from collections.abc import Container, Sequence
from contextlib import AbstractContextManager
from math import inf, isfinite, prod

import torch
from torch import Tensor

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.limits import DTYPES, read_number, real
from sd_scratch.tensors.calls import Calls, check_branch, choose_calls, plain_calls
from sd_scratch.tensors.edit import Editor
from sd_scratch.tensors.reductions import AnyReduction, Bound, OverCalls, Words, bind
from sd_scratch.tensors.tapped import Rows
from sd_scratch.tensors.taps import ByCalls, Call, Member, Run, StopRun, Taps
from sd_scratch.tensors.trace import Address, Kept, Live, Moment, Trace
from sd_scratch.tensors.unofficial import without_numbers
from sd_scratch.tensors.words import show_word

CHUNK = 4_000_000  # numbers of an attention matrix that are made at once
UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "b": 1}


class Recorder(ByCalls, Member, AbstractContextManager[Trace, bool]):
    """Records the tensors that some globs match, while it is entered.

    Args:
        globs: names with ``*`` (which crosses dots), ``?`` and ``[...]``.
        calls: the U-Net's calls, from 0: a number, a slice, several numbers; all by default.
        branch: ``"cond"`` or ``"uncond"``; both by default, on an axis of their own.
        reduce: one reduction or several, in order, applied before anything is kept; see
            `sd_scratch.tensors.reductions`.
        to: device of the copies; by default they stay where they are made.
        dtype: of the copies.
        budget: bytes that the whole recording may take, as a number or as "500MB".
        when: "after" the edits of the same tensor, or "before" them.
        stop_after: end the run once this tensor was made: "unet.h" or "unet.h@3".
        gradients: keep the tensors' gradients too (`Trace.gradient`); needs a run with gradients, and
            attention then stores its probabilities, which changes its rounding.

    Raises:
        ScratchError: a glob matches nothing, a word or an axis does not exist, the recording would exceed its
            budget (all before the run starts), or a second run begins.
    """

    def __init__(
        self,
        taps: Taps,
        *globs: str,
        calls: Calls = None,
        branch: str | None = None,
        reduce: AnyReduction | OverCalls | Sequence[AnyReduction | OverCalls] = (),
        to: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        budget: str | int = "4GB",
        when: str = "after",
        stop_after: str | None = None,
        gradients: bool = False,
    ) -> None:
        if when not in ("before", "after"):
            raise UsageError(f"when='{when}' - say 'before' or 'after' the edits")
        chain = list(reduce) if isinstance(reduce, Sequence) else [reduce]
        for reduction in chain:
            known = hasattr(reduction, "bind") or isinstance(reduction, OverCalls)
            if not known and not callable(reduction):
                raise UsageError(
                    f"reduce: give some of sd.reductions or a function of a tensor, not {reduce!r}"
                )
        if gradients and chain:
            raise ScratchError("gradients belong to whole tensors - record without reduce=")
        self.taps = taps
        self.names = taps.tensors(*globs)
        self.order = 0 if when == "before" else 2
        self.branch = branch
        self.reductions = [r for r in chain if not isinstance(r, OverCalls)]
        self.averaged = len(self.reductions) < len(chain)
        try:
            self.to = None if to is None else torch.device(to)
        except (RuntimeError, TypeError):
            raise UsageError(f"to: give a device, not {to!r}") from None
        found = getattr(torch, dtype) if dtype in DTYPES else dtype
        if not isinstance(found, torch.dtype | None):
            raise UsageError(f"dtype: give one of torch's, or {', '.join(DTYPES)}, not {dtype!r}")
        self.dtype: torch.dtype | None = found
        self.budget, self.kept_bytes = budget_bytes(budget), 0
        self.on_path = self.gradients = gradients
        self.trace = Trace(branch=branch)
        self._calls = plain_calls(calls)
        self._chosen: Container[int] = choose_calls(self._calls, None)
        self._stop = _Stop(taps, stop_after) if stop_after else None
        self._chains: dict[str, list[Bound]] = {}
        self._fresh: dict[tuple[str, str], Tensor] = {}
        self._live: dict[str, Tensor] = {}
        self._counts: dict[Address, int] = {}  # of the calls in a mean
        self._holds_run = False

    # Coming and going -----------------------------------------------------------------------

    def __enter__(self) -> Trace:
        self._bind(Run())
        self.taps.enter(self)
        if self._stop:
            self.taps.enter(self._stop)
        return self.trace

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if self._stop:
            self.taps.leave(self._stop)
        self.taps.leave(self)
        if self.averaged and self.dtype is not None:
            self.trace.values.update({a: x.to(self.dtype) for a, x in self.trace.values.items()})
        return isinstance(error, StopRun) and error.args == (self._stop,)

    def wants(self, call: Call) -> bool:
        return call.index is None or call.index in self._chosen

    # Planning -------------------------------------------------------------------------------

    def prepare(self, run: Run) -> None:
        if self._holds_run:
            raise ScratchError("this recording holds a run already - make one for each run")
        check_branch(self.branch, run.branches)
        self._chosen = choose_calls(self._calls, run.calls)
        self._bind(run)
        self._check_budget(run)
        for address in [a for a in self.trace.values if a.name.startswith("text.")]:
            del self.trace.values[address]  # prompts encoded before the run; it shows its own
        self.trace.facts, self.trace.inputs = run.facts, run.inputs
        self.trace.editors = tuple(m for m in self.taps.members if isinstance(m, Editor))
        self._holds_run = True

    def _bind(self, run: Run) -> None:
        """Fit the reductions to this run's prompts and sizes."""
        table = self.taps.tensors(hw=run.hw)
        words = [word for r in self.reductions if isinstance(r, Words) for word in r.words]
        texts = tuple(map(show_word, words))
        # Words are looked up in a run's prompts. Before it starts there is nothing to keep of them.
        before = run.calls is None and not run.prompts
        names = () if words and before else self.names
        self._chains = {
            name: bind(self.reductions, table[name], run.prompts, self.branch, self.taps.device)
            for name in names
        }
        self.trace.kept = {
            name: Kept(
                chain[-1].axes if chain else table[name].axes, table[name].hw, texts, self.averaged
            )
            for name, chain in self._chains.items()
        }

    def _check_budget(self, run: Run) -> None:
        """Refuse a run whose recording will be larger than the budget."""
        table = self.taps.tensors(hw=run.hw)
        total = 0
        for name in self.names:
            info = table[name]
            x = self._reduced(name, (info.shape[0] * run.batch, *info.shape[1:]), info.dtype)
            calls = 1 if self.averaged or not info.stepwise else _count(self._chosen, run.calls)
            branches = len(run.branches) if info.branched and self.branch is None else 1
            total += prod(x.shape) * (self.dtype or x.dtype).itemsize * calls * branches
        if total > self.budget:
            raise UsageError(
                f"recording {len(self.names)} tensors of this run takes {show_bytes(total)}, more than"
                f" the budget of {show_bytes(self.budget)} - reduce them, choose fewer calls or one"
                " branch, or raise the budget"
            )
        device = self.taps.device.type
        self.kept_bytes = total if torch.device(self.to or device).type == device else 0

    def _reduced(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A ``meta`` tensor, shaped like the part of this one that is kept."""
        with without_numbers():
            x = whole = torch.empty(shape, dtype=dtype, device=self.taps.device)
            try:
                for bound in self._chains[name]:
                    x = bound.apply(x)
            except ScratchError:
                raise
            except Exception:  # a user's function, which needs the numbers
                return whole
            return x

    # Listening ------------------------------------------------------------------------------

    def hear(self, name: str, x: Tensor) -> Tensor:
        if name not in self._chains:
            return x
        if self.gradients and x.requires_grad:
            x.retain_grad()
            self._live[name] = x
        for branch, place in self._places(name, self.taps.call, x.shape[0]):
            part = x[place].detach()
            for bound in self._chains[name]:
                part = bound.apply(part)
            self._keep(name, branch, part)
        return x

    def hear_rows(self, name: str, rows: Rows) -> None:
        chain = self._chains.get(name)
        if chain is None:
            return
        by_rows = next((i for i, bound in enumerate(chain) if not bound.by_rows), len(chain))
        axes = chain[by_rows - 1].axes if by_rows else self.names[name].axes
        for branch, place in self._places(name, self.taps.call, rows.batch):
            size = max(1, CHUNK // (rows.width * (place.stop - place.start)))
            pieces = []
            for start in range(0, rows.rows, size):
                piece = rows.make(place, slice(start, min(start + size, rows.rows))).detach()
                for bound in chain[:by_rows]:
                    piece = bound.apply(piece)
                pieces.append(piece)
            x = torch.cat(pieces, dim=axes.index("query")) if len(pieces) > 1 else pieces[0]
            for bound in chain[by_rows:]:
                x = bound.apply(x)
            self._keep(name, branch, x)

    def _places(self, name: str, call: Call, batch: int) -> list[tuple[str, slice]]:
        """The selected branches, and their places in the batch."""
        parts = call.parts(self.names[name], batch)
        return [part for part in parts if self.branch is None or part[0] in ("", self.branch)]

    def _keep(self, name: str, branch: str, x: Tensor) -> None:
        if (name, branch) in self._fresh:
            self.collect(self.taps.call)  # a second forward pass without `Taps.calling` around it
        if self.dtype is not None and not self.averaged:
            x = x.to(self.dtype)
        # A dict that is emptied after every call: compiled code would compile itself anew for one,
        # or a list, that grows.
        self._fresh[name, branch] = x

    # Putting away ---------------------------------------------------------------------------

    def collect(self, call: Call | None) -> None:
        fresh, live, self._fresh, self._live = self._fresh, self._live, {}, {}
        if call is None or not fresh:
            return
        if call.index is not None:
            self.trace.moments[call.index] = Moment(float(call.t or 0), float(call.sigma or 0))
        for (name, branch), x in fresh.items():
            index = None if self.averaged else call.index
            self._put(Address(name, index, branch), x.to(self.to or x.device, copy=True))
        for name, whole in live.items():
            for branch, place in self._places(name, call, whole.shape[0]):
                self.trace.live[Address(name, call.index, branch)] = Live(whole, place)

    def _put(self, address: Address, x: Tensor) -> None:
        values = self.trace.values
        self._counts[address] = self._counts.get(address, 0) + 1
        if address not in values:
            values[address] = x.float() if self.averaged else x
        elif self.averaged:
            values[address] = values[address].lerp(x.float(), 1 / self._counts[address])
        elif address.call is None:
            values[address] = torch.cat([values[address], x])  # one prompt, or picture, more
        else:
            raise ScratchError(f"{address} was recorded already - make a recording for each run")


class _Stop(Member):
    """Ends the run once a tensor was made."""

    order = 3

    def __init__(self, taps: Taps, address: str) -> None:
        self.taps = taps
        self.address = Address.parse(address)
        self.names = taps.tensors(self.address.name)

    def prepare(self, run: Run) -> None:
        if self.address.call is not None:
            choose_calls(self.address.call, run.calls)

    def wants(self, call: Call) -> bool:
        return call.edits and self.address.call in (None, call.index)

    def hear(self, name: str, x: Tensor) -> Tensor:
        # Compiled code cannot raise; there, the call is finished first.
        if not torch.compiler.is_compiling():
            raise StopRun(self)
        return x

    def hear_rows(self, name: str, rows: Rows) -> None:
        self.hear(name, torch.empty(0))


def budget_bytes(budget: str | int) -> int:
    """A number of bytes, written as a number or as "2GB", "500 MB"."""
    if not isinstance(budget, str) and (size := real(budget)) is not None:
        return int(size)
    text = str(budget).strip().lower()
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    number = read_number(text.removesuffix(unit))
    size = inf if number is None else number * UNITS.get(unit, 1)
    if not isfinite(size):
        raise UsageError(f"'{budget}' is no budget - write 2GB, or 500MB")
    return int(size)


def show_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _count(chosen: Container[int], calls: int | None) -> int:
    return sum(call in chosen for call in range(calls or 1))
