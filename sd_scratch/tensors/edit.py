"""Editing: an `Editor` replaces named tensors."""

from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.tensors.calls import Calls, check_branch, choose_calls, plain_calls
from sd_scratch.tensors.taps import ByCalls, Call, Member, Run, Taps
from sd_scratch.tensors.words import Worded, WordKey, look_up


@dataclass(frozen=True)
class At:
    """The place of an edited tensor in a run.

    Attributes:
        name: of the tensor; `axes` names its axes.
        call: the U-Net's call, counted from 0; None for text and pictures. With it `t` and `sigma`.
        branch: "cond" or "uncond", or "" without branches. An edit sees one at a time.
        hw: height and width of the feature map that the tensor's positions belong to.
        prompts: one for each row of the batch.
    """

    name: str
    axes: tuple[str, ...]
    call: int | None = None
    t: float | None = None
    sigma: float | None = None
    branch: str = ""
    hw: tuple[int, int] | None = None
    prompts: tuple[Worded, ...] = ()

    def axis(self, *wanted: str) -> int:
        """The index of the first of these axes that the tensor has."""
        for name in wanted:
            if name in self.axes:
                return self.axes.index(name)
        raise UsageError(
            f"{self.name} has no axis '{wanted[0]}' - its axes are {', '.join(self.axes)}"
        )

    def positions(self, word: WordKey) -> list[list[int]]:
        """For each row of the batch, the places of the word's tokens on the ``token`` axis."""
        return [list(look_up(prompt, word).positions) for prompt in self.prompts]


EditFunction = Callable[[Tensor, At], Tensor | None]
"""Gets ``[B, ...]`` of one branch; returns what shall stand there, or None to leave it. It must not
change the tensor that it gets."""


class Editor(ByCalls, Member, AbstractContextManager[None]):
    """Applies an edit to the tensors that some globs match, while it is entered.

    Args:
        globs: one, or several in a sequence.
        function: an `EditFunction`, or one of `sd_scratch.tensors.edits`.
        calls, branch: where it acts, by default everywhere.

    Raises:
        ScratchError: a glob matches nothing or a tensor that is only shown; the function's result is not
            shaped like its tensor.
    """

    on_path = True

    def __init__(
        self,
        taps: Taps,
        globs: str | Sequence[str],
        function: EditFunction,
        *,
        calls: Calls = None,
        branch: str | None = None,
    ) -> None:
        self.taps = taps
        if not callable(function):
            raise UsageError(
                f"function: give one of sd.edits or a function of a tensor and its place, not {function!r}"
            )
        several = isinstance(globs, Iterable) and not isinstance(globs, str)
        self.globs = tuple(globs) if several else (globs,)
        self.names = taps.tensors(*self.globs)
        for name, info in self.names.items():
            if not info.editable:
                raise UsageError(f"{name} can only be seen: nothing is made from it")
        self.function = function
        self.calls = plain_calls(calls)
        self.branch = branch or getattr(function, "default_branch", None)
        self._chosen: Container[int] = choose_calls(self.calls, None)
        self._ats: dict[tuple[str, str], At] = {}

    def __enter__(self) -> None:
        self.taps.enter(self)

    def __exit__(self, *_: object) -> None:
        self.taps.leave(self)

    def describe(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """As JSON, for a stored run; tensors go into `tensors` and are named."""
        if isinstance(self.calls, slice):
            calls: Any = {"slice": [self.calls.start, self.calls.stop, self.calls.step]}
        else:
            calls = self.calls
        to_plain = getattr(self.function, "to_plain", None)  # a Python function has none
        return {
            "globs": list(self.globs),
            "steps": calls,  # as stored runs have always said it
            "branch": self.branch,
            "function": to_plain(tensors) if to_plain else None,
        }

    def prepare(self, run: Run) -> None:
        self._chosen = choose_calls(self.calls, run.calls)
        if any(info.branched for info in self.names.values()):
            check_branch(self.branch, run.branches)

    def wants(self, call: Call) -> bool:
        return call.edits and (call.index is None or call.index in self._chosen)

    def begin(self, call: Call) -> None:
        # Made here and not while the network runs: compiled code then depends on those values only
        # that the function reads.
        run = self.taps.run
        table = self.taps.tensors(hw=run.hw)
        self._ats = {
            (name, branch): At(
                name,
                table[name].axes,
                call.index,
                call.t,
                call.sigma,
                branch,
                table[name].hw,
                tuple(run.prompts.get(branch, ())),
            )
            for name, info in self.names.items()
            for branch in (call.branches if info.branched else ("",))
            if branch is not None and (branch in ("", self.branch) or self.branch is None)
        }

    def hear(self, name: str, x: Tensor) -> Tensor:
        parts = self.taps.call.parts(self.names[name], x.shape[0])
        edited = [self._edited(name, branch, x[place]) for branch, place in parts]
        if all(part is None for part in edited):
            return x
        pieces, end = [], 0
        for part, (_, place) in zip(edited, parts, strict=True):
            pieces += [x[end : place.start], x[place] if part is None else part]
            end = place.stop
        return torch.cat([*pieces, x[end:]])

    def _edited(self, name: str, branch: str, x: Tensor) -> Tensor | None:
        at = self._ats.get((name, branch))
        try:
            y = None if at is None else self.function(x, at)
        except (TypeError, ValueError, RuntimeError) as error:
            if not hasattr(self.function, "to_plain"):  # a user's function
                raise
            raise UsageError(
                f"the edit of {name}, {self.function}, cannot be made - {str(error).splitlines()[0]}"
            ) from None
        if y is None:
            return None
        if not isinstance(y, Tensor) or (y.shape, y.dtype, y.device) != (
            x.shape,
            x.dtype,
            x.device,
        ):
            raise ScratchError(
                f"the edit of {name} returned {_describe(y)}, in the place of {_describe(x)}"
            )
        return y


def _describe(x: object) -> str:
    if isinstance(x, Tensor):
        return f"a tensor {list(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device}"
    return f"a {type(x).__name__}"
