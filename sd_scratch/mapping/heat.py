"""Heat maps: which places of the picture look at which word, in the U-Net's cross-attention.

Every place of a feature map spreads one unit of attention over the prompt's tokens. A word's map is
the share that its tokens get, per step, layer and head, or the mean over some of them (Tang et al.
2023, arXiv:2210.04885, sum where this takes means, so that values stay shares, 0..1).

The places' queries do not know which words will be asked for. So words of another prompt have maps
too: its own keys meet the same queries (Marcos-Manchon et al. 2024, arXiv:2403.14291).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.errors import UsageError
from sd_scratch.mapping.maps import Map
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.networks.layers import Attention, attention_scores
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.text.tokenizer import Word

QUERIES = "unet.*.attn2.q"
UNITS = "share of attention"


@dataclass(frozen=True, eq=False)
class Heat:
    """What a run attended to, word by word.

    Attributes:
        shares: by layer, ``[calls, heads, h, w, words]``, 0..1; h and w are the layer's own.
        words: what stands on the last axis.
        size: width and height of the picture in pixels.
    """

    shares: dict[str, Tensor] = field(repr=False)
    words: tuple[str, ...]
    size: tuple[int, int]

    @property
    def calls(self) -> int:
        """How often the U-Net was called."""
        return min(share.shape[0] for share in self.shares.values())

    @property
    def heads(self) -> int:
        return min(share.shape[1] for share in self.shares.values())

    def maps(
        self,
        layers: Sequence[str] = (),
        heads: Sequence[int] = (),
        calls: slice = slice(None),
    ) -> list[Map]:
        """One map a word, the mean over layers, heads and calls (all by default).

        Layers of different sizes meet at the largest one's, smoothly enlarged. Raises ScratchError
        (bad usage) for a layer, head or call that is not there.
        """
        names = choose_layers(list(self.shares), layers)
        check_heads(heads, self.heads)
        if not range(self.calls)[calls]:
            raise UsageError(f"no call of the U-Net is meant, of its {self.calls}")
        parts = [self.shares[name][calls] for name in names]
        parts = [(part[:, list(heads)] if heads else part).mean(dim=(0, 1)) for part in parts]
        size = max((part.shape[:2] for part in parts), key=lambda hw: hw[0] * hw[1])
        whole = torch.stack([_enlarged(part, (size[0], size[1])) for part in parts]).mean(dim=0)
        method = f"cross-attention, layers {len(names)}, heads {len(heads) or self.heads}"
        return [
            Map(whole[..., i].contiguous(), self.size, word, method, UNITS)
            for i, word in enumerate(self.words)
        ]


def record_heat(
    rendering: Rendering, prompt: Prompt, words: Sequence[Word], asked: Prompt | None = None
) -> tuple[Tensor, Heat]:
    """Make the picture, and note at every call of the U-Net what attends to which word.

    `words` are those of `asked`, a prompt of its own that the picture is not made from, or of `prompt`.
    Returns the picture ``[3, H, W]`` uint8, not a bit of which depends on the recording, and the heat.
    Raises ScratchError with guidance 0, where no place looks at the prompt.
    """
    model = rendering.model
    names = list(model.taps.tensors(QUERIES))
    context = (asked or prompt).context
    with ExitStack() as stack:
        traces = {}
        for name in names:
            layer = name.removesuffix(".q")
            attention = model.unet.get_submodule(layer.removeprefix("unet."))
            assert isinstance(attention, Attention)
            reduce = _word_shares(attention, context, words)
            recorder = model.record(name, branch="cond", reduce=reduce)
            traces[layer] = stack.enter_context(recorder)
        (pixels,) = rendering.pixels([prompt])
    shares = {}
    for layer, trace in traces.items():
        recording = trace[f"{layer}.q"]
        calls, _, heads, _, count = recording.tensor.shape  # [calls, 1, heads, places, words]
        h, w = recording.hw or (1, 1)
        shares[layer] = recording.tensor.reshape(calls, heads, h, w, count).float().cpu()
    return pixels, Heat(shares, tuple(word.text for word in words), rendering.size)


def choose_layers(names: Sequence[str], globs: Sequence[str]) -> list[str]:
    """Those of the layers that some globs match, all without any.

    Raises ScratchError (bad usage) for a glob without a match.
    """
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            raise UsageError(f"no layer is named '{glob}' - there is {', '.join(names)}")
    return [n for n in names if not globs or any(fnmatchcase(n, glob) for glob in globs)]


def check_heads(heads: Sequence[int], count: int) -> None:
    """Raise ScratchError (bad usage) for a head that is not among `count`."""
    for head in heads:
        if not 0 <= head < count:
            raise UsageError(f"there is no head {head}, only 0 to {count - 1}")


def _word_shares(
    attention: Attention, context: Tensor, words: Sequence[Word]
) -> Callable[[Tensor], Tensor]:
    """From a layer's queries ``[B, heads, places, d]`` to the words' shares ``[B, heads, places, words]``."""
    weight = attention.to_k.weight
    keys = attention.split_heads(attention.to_k(context.to(weight.device, weight.dtype)))
    tokens = torch.zeros(context.shape[1], len(words), device=weight.device, dtype=weight.dtype)
    for column, word in enumerate(words):
        tokens[list(word.positions), column] = 1.0

    def shares(queries: Tensor) -> Tensor:
        return attention_scores(queries, keys).softmax(dim=-1) @ tokens

    return shares


def _enlarged(part: Tensor, size: tuple[int, int]) -> Tensor:
    """``[h, w, words]`` to another height and width, without overshooting."""
    rows = part.permute(2, 0, 1)[None]
    return F.interpolate(rows, size=size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
