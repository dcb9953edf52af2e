"""Names for the words of a prompt: what a person types, a figure says and settings.json holds."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sd_scratch.errors import UsageError
from sd_scratch.limits import are_digits
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.text.encoding import Word


def name_of(prompt: Prompt, word: Word) -> str:
    """The word's own name, which `find_word` finds it by: ``cat``, or ``cat:2`` for the second of two."""
    alike = [other for other in prompt.words if other.text.casefold() == word.text.casefold()]
    _, colon, number = word.text.rpartition(":")
    if len(alike) == 1 and not (colon and are_digits(number)):
        return word.text
    return f"{word.text}:{1 + alike.index(word)}"


def find_word(prompt: Prompt, name: str) -> Word:
    """The word called ``cat``, or ``cat:2`` for the second.

    Raises UsageError for a word that is not there, was cut off, or is ambiguous.
    """
    text, colon, number = name.rpartition(":")
    if colon and are_digits(number):
        try:
            return prompt.word(text, int(number))
        except UsageError:  # "3:2" may be a word by itself
            if name.casefold() not in (word.text.casefold() for word in prompt.words):
                raise
    return prompt.word(name)


def check_places(what: str, places: Sequence[int], count: int) -> list[int]:
    """The places that are meant, all of them without any. Raises UsageError for one that is not there."""
    for place in places:
        if not 0 <= place < count:
            raise UsageError(f"there is no {what} {place}, only 0 to {count - 1}")
    return list(places) or list(range(count))


def membership(groups: Sequence[Sequence[int]], tokens: int) -> Tensor:
    """1 where a token belongs to a group of positions, such as a word: ``[tokens, groups]``."""
    member = torch.zeros(tokens, len(groups))
    for column, positions in enumerate(groups):
        member[list(positions), column] = 1.0
    return member
