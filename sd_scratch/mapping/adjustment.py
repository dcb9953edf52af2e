"""Adjusting a word: its vectors, after the text encoder and before the U-Net, times 1 + lambda."""

from collections.abc import Sequence

from torch import Tensor

from sd_scratch.errors import UsageError
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.text.tokenizer import Word

LAMBDAS = (-1.0, -0.5, 0.0, 0.5, 1.0)


def adjusted(
    prompt: Prompt, word: Word, lambdas: Sequence[float], origin: str = "zero"
) -> list[Prompt]:
    """The prompt with one word's vectors scaled by 1 + lambda, for each lambda.

    At lambda = -1 the word is at `origin`: ``"zero"``, as in the source, or ``"empty"`` for what the
    empty prompt has in its place. Raises ScratchError (bad usage) without any lambda.
    """
    if not lambdas:
        raise UsageError("the list of lambdas is empty - give some, such as -1,0,1")
    return [prompt.scale(word, 1.0 + amount, origin=origin) for amount in lambdas]


def adjust(
    rendering: Rendering,
    prompt: Prompt,
    word: Word,
    lambdas: Sequence[float] = LAMBDAS,
    *,
    origin: str = "zero",
) -> Tensor:
    """A picture for each lambda, all from the same noise: ``[lambdas, 3, H, W]`` uint8."""
    return rendering.pixels(adjusted(prompt, word, lambdas, origin))
