"""`Prompt`: a text, its tokens and words, and the vectors that the U-Net reads.

A prompt is immutable: every operation returns a new one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.text.encoding import Encoding, Word


@dataclass(frozen=True)
class Prompt:
    """A prompt as text and as vectors.

    Attributes:
        text: as written.
        encoding: its token ids, tokens and words, with character spans into `text`.
        context: one vector per token, ``[1, tokens, channels]`` (77 for each chunk, and 768, for SD 1.x),
            the weights of words in it.
        empty: the same for the empty prompt, the origin of `scale(..., origin="empty")`.
        clip_skip: which layer of the text encoder the vectors come from (1: the last).
        by_hand: whether the vectors are not the text encoder's.
        syntax: one of `sd_scratch.text.syntax.SYNTAXES`, by which the text was read.
        emphasis: one of `sd_scratch.pipeline.emphasis.EMPHASES`, by which its weights were applied.
        changes: whether its text changes during the run; `encoding` and `context` are the first text's.
        passed: the steps of a first pass, after which its changes continue; 0 in a first pass.
        counted: the number of steps that its changes count, 0 for those that a run takes.
    """

    text: str
    encoding: Encoding = field(repr=False)
    context: Tensor = field(repr=False)
    empty: Tensor = field(repr=False)
    clip_skip: int = 1
    by_hand: bool = False
    syntax: str = "plain"
    emphasis: str = "a1111"
    changes: bool = False
    passed: int = 0
    counted: int = 0

    @property
    def words(self) -> tuple[Word, ...]:
        """The prompt's words, in order, each with the positions of its tokens in `context`."""
        return self.encoding.words

    def word(self, text: str, nth: int | None = None) -> Word:
        """The word `text` of the prompt, in any case.

        If it occurs more than once, `nth` (1 for the first) chooses.

        Raises:
            ScratchError: the word does not exist, was cut off, or is ambiguous.
        """
        wanted = text.strip().casefold()
        found = [word for word in self.words if word.text.casefold() == wanted]
        if not found and wanted and wanted in self.encoding.cut.casefold():
            raise UsageError(
                f"the word '{text}' stands beyond the last token that the model reads - shorten the prompt"
            )
        if not found:
            have = ", ".join(dict.fromkeys(word.text for word in self.words)) or "none"
            raise UsageError(
                f"no word '{text}' in the prompt '{self.text}' - its words are: {have}"
            )
        if nth is None and len(found) > 1:
            raise UsageError(
                f"the word '{text}' stands {len(found)} times in the prompt - say which one is meant, "
                f"1 to {len(found)}"
            )
        if nth is not None and not 1 <= nth <= len(found):
            raise UsageError(
                f"the word '{text}' stands {len(found)} times in the prompt, there is no number {nth}"
            )
        return found[(nth or 1) - 1]

    def with_context(self, context: Tensor) -> "Prompt":
        """The same prompt with other vectors, shaped like its own.

        Raises ScratchError for another shape, and for a prompt that changes during the run.
        """
        if self.changes:
            raise ScratchError(
                f"the prompt '{self.text}' is another one at another step, and has no one set of vectors"
                " to change - use one without [from:to:when] and [a|b]"
            )
        shape = tuple(getattr(context, "shape", ()))
        if not isinstance(context, Tensor) or shape != self.context.shape:
            raise ScratchError(
                f"vectors of shape {shape} do not fit a prompt of {tuple(self.context.shape)}"
            )
        return replace(self, context=context, by_hand=True)

    def scale(
        self, word: Word | str, factor: float, *, origin: str = "zero", nth: int | None = None
    ) -> "Prompt":
        """Scale a word's vectors by `factor`, the thesis' adjustment with factor = 1 + lambda.

        They are scaled away from `origin`: ``"zero"``, or ``"empty"``, the empty prompt's vectors at the same
        positions.
        """
        if origin not in ("zero", "empty"):
            raise UsageError(f"unknown origin '{origin}' - use zero or empty")
        positions = list((self.word(word, nth) if isinstance(word, str) else word).positions)
        context = self.context.clone()
        base = self.empty[:, positions] if origin == "empty" else 0.0
        context[:, positions] = base + (self.context[:, positions] - base) * factor
        return self.with_context(context)

    def lerp(self, other: "Prompt", amount: float) -> "Prompt":
        """Move the vectors towards another prompt's: 0 stays here, 1 arrives there."""
        return self.with_context(self.context.lerp(other.context, amount))

    def padded(self, chunks: int) -> "Prompt":
        """The same with empty chunks after it, `chunks` in total."""
        have, length = len(self.encoding.chunks), self.encoding.length
        if have >= chunks:
            return self
        nothing = self.empty[:, :length].repeat(1, chunks - have, 1)
        ids = self.encoding.ids
        blank = (ids[0], *[ids[-1]] * (length - 1)) * (chunks - have)
        return replace(
            self,
            encoding=replace(self.encoding, ids=ids + blank),
            context=torch.cat([self.context, nothing], dim=1),
            empty=torch.cat([self.empty, nothing], dim=1),
        )


@dataclass(frozen=True)
class ChangingPrompt(Prompt):
    """A prompt that changes during a run, for looking up words; `stages` has it at each step."""

    stages: tuple[Prompt, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, stages: Sequence[Prompt]) -> "ChangingPrompt":
        values = {each.name: getattr(stages[0], each.name) for each in fields(Prompt)}
        return cls(**(values | {"changes": True}), stages=tuple(stages))

    def word(self, text: str, nth: int | None = None) -> Word:
        """The word `text`, which must have the same place at every step.

        Raises UsageError if it has not.
        """
        found = [stage.word(text, nth) for stage in self.stages]
        if any(word.positions != found[0].positions for word in found):
            raise UsageError(
                f"the word '{text}' stands elsewhere at another step of '{self.text}' - what changes in"
                " a prompt is best put at its end"
            )
        return found[0]
