"""Runs whose attention to a word is watched, or cut off at some places, and a U-Net that was never
trained."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.checkpoints.build import seeded
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.mapping.words import membership
from sd_scratch.networks.unet import UNet
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.tensors.edit import At
from sd_scratch.tensors.reductions import mean_over_calls
from sd_scratch.text.encoding import Word

PROBS = "unet.*.attn2.probs"


def with_random_unet(rendering: Rendering, seed: int = 0) -> Rendering:
    """The same, but for a U-Net that was never trained (PyTorch's own initialisation)."""
    model = rendering.model
    unet = seeded(lambda: UNet(model.config.unet), seed).eval().requires_grad_(False)
    unet = unet.to(model.device, model.dtype)
    return replace(rendering, model=StableDiffusion(replace(model.components, unet=unet)))


def watched(
    rendering: Rendering,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    words: Sequence[Sequence[Word]],
) -> tuple[Tensor, dict[str, Tensor]]:
    """The pictures ``[n, 3, H, W]``, and which share of its attention each place gave to the words of
    its prompt.

    Every prompt has as many words. The shares are means over heads and calls, by layer:
    ``[n, words, h, w]``, with h and w the layer's own.
    """
    pictures: list[Tensor] = []
    shares: dict[str, list[Tensor]] = {}
    for part in rendering.batches(len(prompts)):
        tokens = prompts[0].context.shape[1]
        members = [membership([w.positions for w in several], tokens) for several in words[part]]
        matrix = torch.stack(members).to(rendering.model.device)  # [n, tokens, words]

        def of_words(probs: Tensor, matrix: Tensor = matrix) -> Tensor:
            return (probs.mean(dim=1).float() @ matrix).transpose(1, 2)  # [n, words, places]

        model, reduce = rendering.model, (of_words, mean_over_calls())
        with model.record(PROBS, branch="cond", reduce=reduce) as trace:
            pictures.append(rendering.afresh().colours(prompts[part], seeds[part]))
        for name in trace.names:
            recording = trace[name]
            h, w = recording.hw or (1, 1)
            shares.setdefault(name.removesuffix(".probs"), []).append(
                recording.tensor.view(*recording.tensor.shape[:-1], h, w).cpu()
            )
    return torch.cat(pictures), {name: torch.cat(rows) for name, rows in shares.items()}


def kept(rendering: Rendering, prompt: Prompt, seed: int, word: Word, places: Tensor) -> Tensor:
    """Pictures in which only some places may look at a word: ``[n, 3, H, W]``.

    `places` are ``[n, h, w]`` of bool; coarser layers keep the share of their places. What attention
    the word loses goes to the start token.
    """
    pictures = []
    for part in rendering.batches(len(places)):
        edit = _keep(places[part].float().to(rendering.model.device), list(word.positions))
        with rendering.model.edit(PROBS, edit, branch="cond"):
            count = len(places[part])
            pictures.append(rendering.afresh().colours([prompt] * count, [seed] * count))
    return torch.cat(pictures)


def _keep(places: Tensor, positions: list[int]) -> Callable[[Tensor, At], Tensor]:
    def keep(probs: Tensor, at: At) -> Tensor:
        h, w = at.hw or (1, 1)
        share = F.adaptive_avg_pool2d(places[:, None], (h, w)).flatten(2)[..., None]  # [n, 1, N, 1]
        lost = probs[..., positions] * (1 - share.to(probs))
        changed = probs.clone()
        changed[..., positions] -= lost
        changed[..., 0] += lost.sum(dim=-1)
        return changed

    return keep
