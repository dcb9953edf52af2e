"""Prompts that change during the run: ``[from:to:when]`` and ``[a|b]``, as in AUTOMATIC1111.

``[from:to:when]`` is *from* up to step *when* and *to* after it; ``[to:when]`` and ``[from::when]`` leave
one side out. A *when* with a point is a share of the steps, 0.5 or .5, one without counts steps. ``[a|b|c]``
takes one after the other, step by step. Everything else is text, and its brackets are weights (see `syntax`);
a bar outside of such brackets makes the whole prompt text. In a second pass shares go on above 1, and counts
after the first pass's steps.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from sd_scratch.errors import UsageError
from sd_scratch.text.cleaning import Cleaned
from sd_scratch.text.syntax import DEEPEST, OPENED_BY

WHEN = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
LATEST = 1e6  # beyond any step


class Switch(NamedTuple):
    """`before` up to a step, `after` from there on; `when` as it was typed."""

    before: "Items"
    after: "Items"
    when: str

    def last_step(self, steps: int, passed: int) -> int:
        """The last of `steps` with `before`, in a pass after one of `passed` steps."""
        number = max(-LATEST, min(LATEST, float(self.when)))
        if "." in self.when:
            return min(steps, int((number - bool(passed)) * steps))
        return min(steps, int(number) - passed)


class Turns(NamedTuple):
    """One after the other."""

    choices: "list[Items]"


Items: TypeAlias = "list[int | Switch | Turns]"
"""Places of characters, and what changes among them."""


@dataclass(frozen=True)
class Changes:
    """A prompt as a tree of its changes; `passed` are the steps of an earlier pass, or 0. `stray` is the
    place of a bar that keeps it from changing."""

    text: Cleaned
    items: Items
    passed: int = 0
    stray: int | None = None

    @property
    def any(self) -> bool:
        return any(not isinstance(item, int) for item in self.items)

    def at(self, step: int, steps: int) -> Cleaned:
        """The text at a step, 1 to `steps`."""
        places = self._flatten(self.items, step, steps)
        text, spans = self.text
        return Cleaned("".join(text[i] for i in places), [spans[i] for i in places])

    def ends(self, steps: int) -> list[int]:
        """The last step of every stretch in which nothing changes."""
        found = {steps}
        todo: list[Items] = [self.items]
        while todo:
            for item in todo.pop():
                if isinstance(item, Switch):
                    if (last := item.last_step(steps, self.passed)) >= 1:
                        found.add(last)
                    todo += [item.before, item.after]
                elif isinstance(item, Turns):
                    found.update(range(1, steps + 1))
                    todo += item.choices
        return sorted(found)

    def at_call(self, call: int, steps: int) -> Cleaned:
        """The text at step `call`, counted from 0: A1111 counts steps from 0 here and from 1 in the prompt,
        so a text that ends at step 3 is used in the first four."""
        return self.at(next(end for end in self.ends(steps) if call <= end), steps)

    def _flatten(self, items: Items, step: int, steps: int) -> list[int]:
        places: list[int] = []
        for item in items:
            if isinstance(item, int):
                places.append(item)
                continue
            if isinstance(item, Switch):
                is_before = step <= item.last_step(steps, self.passed)
                chosen = item.before if is_before else item.after
            else:
                chosen = item.choices[(step - 1) % len(item.choices)]
            places += self._flatten(chosen, step, steps)
        return places


def find_changes(text: Cleaned, passed: int = 0) -> Changes:
    """The changes in a prompt, in a pass after one of `passed` steps.

    Raises UsageError for brackets nested deeper than 100."""
    stack: list[_Frame] = [_Frame("")]
    i = 0
    while i < len(text.text):
        char = text.text[i]
        if char == "\\" and i + 1 < len(text.text):
            stack[-1].items += [i, i + 1]
            i += 2
            continue
        if char in "[(":
            stack.append(_Frame(char, i))
            if len(stack) > DEEPEST:
                raise UsageError(f"brackets in the prompt are nested more than {DEEPEST} deep")
        elif char in "])" and any(frame.bracket == OPENED_BY[char] for frame in stack):
            while stack[-1].bracket != OPENED_BY[char]:
                _give_back(stack)  # a bracket of the other kind that is not closed: text
            frame = stack.pop()
            change = frame.change(text.text) if char == "]" else None
            stack[-1].items += [frame.place, *frame.items, i] if change is None else [change]
        else:
            for frame in stack if char in "])" else ():
                frame.closable = False  # what is around a bracket that was never opened is text
            if char in ":|":
                stack[-1].marks.append(len(stack[-1].items))
            stack[-1].items.append(i)
        i += 1
    while len(stack) > 1:
        _give_back(stack)
    changes = Changes(text, stack[0].items, passed)
    bars = [i for i in changes.items if isinstance(i, int) and _is_bar(text.text, i)]
    if not bars or not changes.any:
        return changes
    return Changes(text, list(range(len(text.text))), passed, stray=bars[0])


def _is_bar(text: str, i: int) -> bool:
    """Whether there is a bar, with an even number of backslashes before it."""
    return text[i] == "|" and (i - len(text[:i].rstrip("\\"))) % 2 == 0


class _Frame:
    """An open bracket: its content so far, and the places of its colons and bars."""

    def __init__(self, bracket: str, place: int = 0) -> None:
        self.bracket, self.place, self.closable = bracket, place, True
        self.items: Items = []
        self.marks: list[int] = []

    def change(self, text: str) -> Switch | Turns | None:
        def sign(mark: int) -> str:
            place = self.items[mark]
            return text[place] if isinstance(place, int) else ""

        if not self.closable:
            return None
        colons = [mark for mark in self.marks if sign(mark) == ":"]
        if 1 <= len(colons) <= 2:
            tail = self.items[colons[-1] + 1 :]
            when = "".join(text[item] if isinstance(item, int) else "?" for item in tail)
            if WHEN.fullmatch(when):
                start = colons[0] + 1 if len(colons) == 2 else 0
                before = self.items[: colons[0]] if len(colons) == 2 else []
                return Switch(before, self.items[start : colons[-1]], when.strip())
        bars = [mark for mark in self.marks if sign(mark) == "|"]
        if not bars:
            return None
        edges = [-1, *bars, len(self.items)]
        return Turns([self.items[a + 1 : b] for a, b in pairwise(edges)])


def _give_back(stack: list[_Frame]) -> None:
    """Return an unclosed bracket and its content to the text around it."""
    frame, outer = stack.pop(), stack[-1]
    offset = len(outer.items) + 1
    outer.marks += [offset + mark for mark in frame.marks]
    outer.items += [frame.place, *frame.items]
    outer.closable = False
