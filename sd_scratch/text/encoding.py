"""A prompt in tokens and words, each with its place in the prompt."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import regex

# A word as a person means it: letters and digits with their accents and joiners, or a run of emoji.
WORD = regex.compile(r"[\p{L}\p{N}][\p{L}\p{N}\p{M}\p{Cf}]*|[^\s\p{L}\p{N}\p{P}!-~]+")


class Token(NamedTuple):
    """One token of a prompt, made from ``prompt[start:end]``.

    Attributes:
        id: its row in the text encoder's embedding.
        text: what the model reads: cleaned, lower case, "\N{REPLACEMENT CHARACTER}" for a part of a
            character.
        start, end: characters of the original prompt. Tokens that share a character share its span.
        position: its place in `Encoding.ids`, and so in the text encoder's output.
        weight: its factor by the prompt's syntax.
    """

    id: int
    text: str
    start: int
    end: int
    position: int = 0
    weight: float = 1.0


class Word(NamedTuple):
    """A word of a prompt, as written there, with all of its tokens.

    Attributes:
        text: ``prompt[start:end]``.
        start, end: characters of the original prompt.
        tokens: indices into `Encoding.tokens`.
        positions: their places in `Encoding.ids`, and so in the text encoder's output.
    """

    text: str
    start: int
    end: int
    tokens: tuple[int, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Encoding:
    """A prompt as the text encoder reads it.

    Attributes:
        ids: `max_length` token ids for each chunk: start, text, end and padding (the end token again in
            Stable Diffusion 1.x).
        tokens: those of the text only.
        text: the prompt as given.
        cut: the part of `text` that did not fit, or "".
        dropped: the number of tokens of that part.
        notes: sentences for the user about this prompt.
        length: ids of a chunk.
    """

    ids: tuple[int, ...]
    tokens: tuple[Token, ...]
    text: str
    cut: str = ""
    dropped: int = 0
    notes: tuple[str, ...] = ()
    length: int = 77

    @property
    def chunks(self) -> list[list[int]]:
        """The ids that the text encoder reads at a time."""
        starts = range(0, len(self.ids), self.length)
        return [list(self.ids[start : start + self.length]) for start in starts]

    @property
    def weights(self) -> dict[int, float]:
        """By position, the weights that are not 1."""
        return {token.position: token.weight for token in self.tokens if token.weight != 1}

    @functools.cached_property
    def words(self) -> tuple[Word, ...]:
        """The prompt's words in order: runs of characters between white space and punctuation.

        A word covers whole tokens; what shares a token is one word. Words that were cut off are missing, and
        one that was cut in the middle has its remaining tokens.
        """
        words: list[Word] = []
        first = 0
        for match in WORD.finditer(self.text):
            start, end = match.span()
            while first < len(self.tokens) and self.tokens[first].end <= start:
                first += 1
            last = first
            while last < len(self.tokens) and self.tokens[last].start < end:
                last += 1
            if first == last:
                continue
            tokens = range(first, last)
            if words and words[-1].tokens[-1] >= first:
                previous = words.pop()
                tokens, start = range(previous.tokens[0], last), previous.start
            start = min(start, self.tokens[tokens[0]].start)
            end = max(end, self.tokens[tokens[-1]].end)
            positions = tuple(self.tokens[index].position for index in tokens)
            words.append(Word(self.text[start:end], start, end, tuple(tokens), positions))
        return tuple(words)
