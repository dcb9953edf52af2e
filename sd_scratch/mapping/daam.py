"""DAAM: a word's heat map from all cross-attention of a run (Tang et al. 2023, arXiv:2210.04885).

Attention to each token is summed over the steps; every layer's and head's map is enlarged to the
latent's size by bicubic interpolation and cut off below zero; the mean over layers and heads is the
token's map, and the mean over a word's tokens the word's. The middle block is left out, as in the
authors' code. `sd_scratch.mapping.heat` has the same idea in shares of attention.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from sd_scratch.mapping.maps import Map
from sd_scratch.mapping.words import name_of
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.tensors import Trace
from sd_scratch.tensors.words import WordKey

LAYERS = ("unet.down_blocks.*.attn2.probs", "unet.up_blocks.*.attn2.probs")
"""What to record, with ``branch="cond"`` and ``reduce=mean_over_calls()``."""


def daam(trace: Trace, prompt: Prompt, words: Sequence[WordKey], row: int = 0) -> list[Map]:
    """A map for each word, of picture `row` of the recorded batch, at the latent's size.

    Raises ScratchError for a word that is not in the prompt, and for a trace without `LAYERS`.
    """
    width, height = trace.facts["width"], trace.facts["height"]
    recordings = [trace[name] for name in trace.names]
    size = max(recording.hw or (0, 0) for recording in recordings)
    merged = []
    for recording in recordings:
        summed = recording.maps()[row].float() * len(recording.calls)  # [heads, h, w, tokens]
        enlarged = F.interpolate(summed.movedim(-1, 1), size=size, mode="bicubic")
        merged.append(enlarged.clamp(min=0))  # [heads, tokens, H, W]
    tokens = torch.cat(merged).mean(dim=0)
    found = [prompt.word(*([word] if isinstance(word, str) else word)) for word in words]
    return [
        Map(
            tokens[list(word.positions)].mean(dim=0).cpu(),
            (width, height),
            name_of(prompt, word),
            f"DAAM, layers {len(recordings)}, steps {len(recordings[0].calls)}",
            "attention summed over the steps",
        )
        for word in found
    ]
