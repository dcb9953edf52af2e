"""What the words of a prompt look at inside the text encoder.

Every token spreads one unit of attention over itself and the tokens before it, in every layer and
head. Between words: what a word gets is the sum over its tokens, what it gives the mean over them, so
that every word, too, gives one unit in all. A word's attention is what it gets from all words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sd_scratch.mapping.maps import told_apart
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.stable_diffusion import StableDiffusion

PROBS = "text.encoder.layers.*.self_attn.probs"
START, END, PADDING = "<start>", "<end>", "<padding>"


@dataclass(frozen=True, eq=False)
class TextAttention:
    """The text encoder's attention for one prompt.

    Attributes:
        prompt: what was read.
        probs: ``[layers, heads, tokens, tokens]``, from each (row) to each (column); rows sum to 1.
    """

    prompt: Prompt
    probs: Tensor = field(repr=False)

    @property
    def tokens(self) -> list[str]:
        """What stands at each of the text encoder's positions."""
        texts = [token.text for token in self.prompt.encoding.tokens]
        rest = self.probs.shape[-1] - len(texts) - 2
        return [START, *texts, END, *[PADDING] * rest]

    def labels(self, special: bool = False) -> list[str]:
        """Names of the words, of which those that stand there twice are numbered (``a:1``, ``a:2``)."""
        words = told_apart([word.text for word in self.prompt.words])
        return [START, *words, END, PADDING] if special else words

    def between_words(self, special: bool = False) -> Tensor:
        """``[layers, heads, words, words]``, in the order of `labels`.

        Without `special`, the start and end tokens and the padding behind them neither give nor get;
        rows then sum to less than 1, mostly to much less, as most attention goes to the start.
        """
        positions = [list(word.positions) for word in self.prompt.words]
        if special:
            end = len(self.prompt.encoding.tokens) + 1
            padding = list(range(end + 1, self.probs.shape[-1]))
            positions = [[0], *positions, [end], padding]
        return combine(self.probs, positions)

    def received(self, special: bool = False) -> Tensor:
        """What each word gets from all words, itself among them: ``[layers, heads, words]``."""
        return self.between_words(special).sum(dim=-2)


def text_attention(model: StableDiffusion, text: str, *, clip_skip: int = 1) -> TextAttention:
    """Read a prompt, and note who looks at whom. Raises ScratchError as `StableDiffusion.prompt`."""
    with model.record(PROBS, branch="cond") as trace:
        prompt = model.prompt(text, clip_skip=clip_skip)
    layers = [trace[name].tensor[0].float().cpu() for name in trace.names]
    return TextAttention(prompt, torch.stack(layers))


def combine(probs: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Attention between tokens ``[..., N, N]`` to attention between groups of them: the sum over what
    gets it, the mean over who gives it. An empty group gives and gets nothing."""
    member = torch.zeros(probs.shape[-1], len(groups))
    for column, positions in enumerate(groups):
        member[list(positions), column] = 1.0
    givers = member / member.sum(dim=0).clamp(min=1.0)
    return givers.T @ probs @ member
