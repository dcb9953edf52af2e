"""The part of prompts that this floor needs: the places of a word's tokens."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from sd_scratch.errors import UsageError


class Spelled(Protocol):
    """A word of a prompt; `positions` are the places of its tokens among the token ids."""

    @property
    def text(self) -> str: ...

    @property
    def positions(self) -> tuple[int, ...]: ...


class Worded(Protocol):
    """A prompt: see `sd_scratch.pipeline.prompt.Prompt`."""

    @property
    def text(self) -> str: ...

    @property
    def empty(self) -> Tensor: ...

    def word(self, text: str, nth: int | None = None) -> Spelled: ...


Prompts = Mapping[str, Sequence[Worded]]
"""By branch, one prompt for each row of the batch."""

WordKey = str | tuple[str, int]
"""A word of the prompt, or ``("cat", 2)`` for the second "cat"."""


def show_word(word: WordKey) -> str:
    """As a person writes it; UsageError for what is no word."""
    match word:
        case str():
            return word
        case (str(text), int(nth)):
            return f"{text} ({nth})"
    raise UsageError(f"a word is a text, or a pair such as ('cat', 2), not {word!r:.80}")


def look_up(prompt: Worded, word: WordKey) -> Spelled:
    show_word(word)
    return prompt.word(word) if isinstance(word, str) else prompt.word(*word)


def word_matrix(prompt: Worded, words: Sequence[WordKey], tokens: int, mean: bool) -> Tensor:
    """``[tokens, words]``: multiplied from the right, it sums (or averages) each word's tokens."""
    matrix = torch.zeros(tokens, len(words))
    for column, word in enumerate(words):
        positions = list(look_up(prompt, word).positions)
        matrix[positions, column] = 1 / len(positions) if mean else 1.0
    return matrix
