"""A tensor as the page draws it: feature maps, words over places, a table, bars, or a number."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from sd_scratch.tensors import TensorInfo
from sd_scratch.text.encoding import Encoding

VALUES_LIMIT = 1 << 20  # numbers of one view


@dataclass(frozen=True, eq=False)
class View:
    """What is drawn.

    Attributes:
        kind: "maps" (of places), "table" (rows and columns), "bars" or "number".
        values: fp32; the last two axes of maps and tables are drawn.
        axes: what each axis of `values` is.
        labels: of some axes, a text for each place.
        left_out: how many maps or tables found no room.
        place: the query whose row of a self-attention is shown.
    """

    kind: str
    values: Tensor
    axes: tuple[str, ...]
    labels: dict[str, list[str]]
    left_out: int = 0
    place: int | None = None

    def head(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "shape": list(self.values.shape),
            "axes": list(self.axes),
            "labels": self.labels,
            "left_out": self.left_out,
            "place": self.place,
        }

    def body(self) -> bytes:
        data: bytes = self.values.contiguous().numpy().astype("<f4").tobytes()
        return data


def statistics(x: Tensor) -> dict[str, float | int | None]:
    """Smallest, largest, mean and standard deviation of the finite numbers, and how many are not."""
    numbers = x.detach().double().flatten()
    finite = numbers[numbers.isfinite()]
    values = (finite.min(), finite.max(), finite.mean(), finite.std(unbiased=False))
    names = ("min", "max", "mean", "std")
    some = finite.numel() > 0
    known = {n: float(v) for n, v in zip(names, values, strict=True)} if some else {}
    return {**dict.fromkeys(names), **known, "not_finite": numbers.numel() - finite.numel()}


def view(info: TensorInfo, x: Tensor, text: Encoding | None, place: int | None) -> View:
    """The view of one picture's tensor, ``[...]`` with the axes of `info` but the batch.

    `text` names the tokens; `place` is the query whose row of a self-attention is shown, the middle by
    default. Where `x` has one query alone, that is it.
    """
    axes, hw = info.axes[1:], info.hw
    x = x.detach().float().cpu()
    labels: dict[str, list[str]] = {}
    if text is not None and "token" in axes:
        if "query" in axes and hw is not None:
            x, labels["word"] = by_words(x, text)
            axes = tuple("word" if axis == "token" else axis for axis in axes)
        elif x.shape[axes.index("token")] == len(text.ids):
            labels["token"] = token_names(text)
            if "query" in axes:  # of the text encoder
                labels["query"] = labels["token"]
    if {"query", "key"} <= set(axes) and hw is not None:
        i = axes.index("query")
        queries = hw[0] * hw[1]
        place = (queries // 2 + hw[1] // 2 if place is None else place) % queries
        x = x.select(i, 0 if x.shape[i] == 1 else place)
        axes = tuple(axis for axis in axes if axis != "query")
    else:
        place = None
    folded = next((i for i, axis in enumerate(axes) if axis in ("query", "position", "key")), None)
    if hw is not None and folded is not None and x.shape[folded] == hw[0] * hw[1]:
        x = x.movedim(folded, -1)
        x = x.reshape(*x.shape[:-1], *hw)
        rest = tuple(axis for i, axis in enumerate(axes) if i != folded)
        return _within("maps", x, (*rest, "height", "width"), labels, place)
    if axes[-2:] == ("height", "width"):
        return _within("maps", x, axes, labels, place)
    if len(axes) > 1:
        return _within("table", x, axes, labels, place)
    return _within("bars" if axes else "number", x, axes, labels, place)


def _within(
    kind: str, x: Tensor, axes: tuple[str, ...], labels: dict[str, list[str]], place: int | None
) -> View:
    """The view, without what is beyond its limit."""
    drawn = {"maps": 2, "table": 2, "bars": 1, "number": 0}[kind]
    lead = x.dim() - drawn
    one = prod(x.shape[lead:])
    total = prod(x.shape[:lead])
    room = max(VALUES_LIMIT // max(one, 1), 1)
    if total <= room:
        return View(kind, x, axes, labels, 0, place)
    flat = x.reshape(total, *x.shape[lead:])[:room]
    names = [axis for axis in axes[:lead] if axis not in labels]
    return View(kind, flat, ("*".join(names) or "map", *axes[lead:]), {}, total - room, place)


def by_words(x: Tensor, text: Encoding) -> tuple[Tensor, list[str]]:
    """``[..., token]`` to ``[..., word]``: each word's tokens added up, and the tokens that stand for no
    word: the start, the end, and what fills up."""
    tokens = x.shape[-1]
    groups: list[tuple[str, Sequence[int]]] = [
        (word.text, [p for p in word.positions if p < tokens]) for word in text.words
    ]
    taken = {p for _, positions in groups for p in positions}
    own = [token.position for token in text.tokens if token.position < tokens]
    end = max(own, default=0) + 1
    others = [
        ("start", [0]),
        ("other", [p for p in own if p not in taken]),
        ("end", [end] if end < tokens else []),
        ("padding", [p for p in range(end + 1, tokens) if p not in taken]),
    ]
    named = groups + [(f"({name})", positions) for name, positions in others if positions]
    columns = [x[..., list(positions)].sum(dim=-1) for _, positions in named if positions]
    return torch.stack(columns, dim=-1), [name for name, positions in named if positions]


def token_names(text: Encoding) -> list[str]:
    """A name for every place of the prompt's ids."""
    names = ["(padding)"] * len(text.ids)
    last = 0
    for token in text.tokens:
        names[token.position] = text.text[token.start : token.end]
        last = max(last, token.position)
    names[0] = "(start)"
    if last + 1 < len(names):
        names[last + 1] = "(end)"
    return names
