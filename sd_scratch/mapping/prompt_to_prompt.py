"""Prompt-to-prompt: a picture changed by its words, with the layout kept (Hertz et al. 2022,
arXiv:2208.01626).

Two pictures are made at once from one noise. In the first steps the second one takes over the first
one's cross-attention, each token from the token that it stands for: replaced words get the attention
of those in whose place they stand, words that were added keep their own. In fewer steps it takes over
self-attention, too. (The third edit of the paper, heavier and lighter words, is
`sd_scratch.tensors.reweight`.)
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from difflib import SequenceMatcher

import torch
from torch import Tensor

from sd_scratch.errors import ScratchError
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.tensors import Follow

CROSS, SELF = "unet.*.attn2.probs", "unet.*.attn1.probs"
SMALL = 1 / 2  # of the latent's sides: larger self-attention stays free


@contextmanager
def prompt_to_prompt(
    model: StableDiffusion,
    prompts: Sequence[Prompt],
    calls: int,
    *,
    cross: float = 0.8,
    self_attention: float = 0.4,
) -> Iterator[None]:
    """While this is entered, every picture of a batch follows the first one.

    ``with prompt_to_prompt(model, [cat, dog], 50): model.generate([cat, dog], model.noise([7, 7]), steps=50)``

    Args:
        prompts: those of the batch, in order.
        calls: of the U-Net in the run; `cross` and `self_attention` are parts of them, 0..1.

    Raises:
        ScratchError: there is no second prompt, or the batch of the run is another one.
    """
    if len(prompts) < 2:
        raise ScratchError("prompt-to-prompt needs a second prompt, which follows the first")
    aligned = [align(prompts[0], prompt) for prompt in prompts[1:]]
    matrix, own = (torch.stack(part) for part in zip(*aligned, strict=True))
    side = max(info.hw[0] for info in model.tensors(SELF) if info.hw)
    small = [info.name for info in model.tensors(SELF) if info.hw and info.hw[0] <= SMALL * side]
    with ExitStack() as stack:
        for globs, edit, part in (
            (CROSS, Follow(matrix, own), cross),
            (small, Follow(), self_attention),
        ):
            if count := round(part * calls):
                stack.enter_context(model.edit(globs, edit, calls=slice(0, count)))
        yield


def align(base: Prompt, other: Prompt) -> tuple[Tensor, Tensor]:
    """Which of `base`'s tokens each token of `other` stands for.

    Returns a matrix ``[M, M]``, base's tokens to other's, whose rows add up to 1 for tokens that are
    still there or replaced and to 0 for those left out; and ``[M]``, 1 for tokens that are new.
    """
    ids = [list(prompt.encoding.ids) for prompt in (base, other)]
    ends = [len(prompt.encoding.tokens) + 1 for prompt in (base, other)]
    total = len(ids[0])
    matrix, own = torch.zeros(total, total), torch.zeros(total)
    blocks: list[tuple[str, int, int, int, int]] = [("equal", 0, 1, 0, 1)]  # the start token
    texts = [each[1:end] for each, end in zip(ids, ends, strict=True)]
    matcher = SequenceMatcher(None, texts[0], texts[1], autojunk=False)
    blocks += [(kind, a + 1, b + 1, c + 1, d + 1) for kind, a, b, c, d in matcher.get_opcodes()]
    blocks.append(("equal", ends[0], ends[0] + 1, ends[1], ends[1] + 1))
    blocks.append(("replace", ends[0] + 1, total, ends[1] + 1, total))
    for kind, a, b, c, d in blocks:
        if kind == "insert":
            own[c:d] = 1.0
        elif kind != "delete" and a < b and c < d:
            matrix[a:b, c:d] = spread(b - a, d - c)
    return matrix, own


def spread(source: int, target: int) -> Tensor:
    """``[source, target]``: places in a row laid over others, each divided among those it covers."""
    # In whole numbers: source * target units in all.
    start, low = target * torch.arange(source)[:, None], source * torch.arange(target)
    overlap = torch.minimum(start + target, low + source) - torch.maximum(start, low)
    return overlap.clamp(min=0) / target
