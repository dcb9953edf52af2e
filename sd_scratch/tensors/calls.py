"""Selections of the U-Net's calls and branches."""

import sys
from collections.abc import Container, Iterable
from typing import Any

from sd_scratch.errors import UsageError
from sd_scratch.limits import whole

Calls = int | slice | Iterable[int] | None


def plain_calls(calls: Any) -> int | slice | list[int] | None:
    """The given calls as Python numbers. Raises UsageError for anything else."""
    if calls is None:
        return None
    if isinstance(calls, slice):
        parts = (calls.start, calls.stop, calls.step)
        return slice(*(None if part is None else _number(part) for part in parts))
    if (
        isinstance(calls, Iterable)
        and getattr(calls, "ndim", None) != 0
        and not isinstance(calls, str)
    ):
        return [_number(call) for call in calls]
    return _number(calls)


def choose_calls(calls: int | slice | list[int] | None, count: int | None) -> Container[int]:
    """The selected calls of a run with `count` of them (None: not known yet).

    Raises UsageError for calls outside the run.
    """
    total = sys.maxsize if count is None else count
    if calls is None or isinstance(calls, slice):
        chosen = range(total)[calls or slice(None)]
        if calls is not None and not chosen:
            raise UsageError(f"the run has {count} calls, and none of them is meant by {calls}")
        return chosen
    wanted = [calls] if isinstance(calls, int) else calls
    for call in wanted:
        if not -total <= call < total:
            raise UsageError(f"there is no call {call}, the run has {count}")
    return {call % total for call in wanted}


def check_branch(branch: str | None, branches: tuple[str, ...]) -> None:
    """Raises UsageError for a branch that a run does not have."""
    if branch and branches and branch not in branches:
        raise UsageError(
            f"the run has no branch '{branch}', only {', '.join(branches)}"
            " - another guidance scale needs both"
        )


def _number(call: Any) -> int:
    number = whole(call)
    if number is None:
        raise UsageError(f"calls: give numbers of calls, or a slice of them, not {call!r}")
    return number
