"""Many runs at once, each with a prompt and a seed of its own, all with the same settings.

`Rendering` has one noise and many prompts; here the noise differs too, so that small pictures of many
scenes share a batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.mapping.gradient import directional_derivative
from sd_scratch.networks.unet import UNet
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.tensors import mean_over_steps
from sd_scratch.tensors.edit import At
from sd_scratch.text.tokenizer import Word

PROBS = "unet.*.attn2.probs"


def _nothing(pictures: int) -> None:
    pass


@dataclass(frozen=True)
class Batches:
    """A model and the settings of its runs.

    Attributes:
        settings: those of `StableDiffusion.steps`.
        size: pictures at a time.
        on_pictures: told how many pictures were made, after each batch.
    """

    model: StableDiffusion
    settings: Mapping[str, Any] = field(default_factory=dict)
    size: int = 32
    on_pictures: Callable[[int], object] = _nothing

    def with_settings(self, **settings: Any) -> "Batches":
        return replace(self, settings={**self.settings, **settings})

    def with_random_unet(self, seed: int = 0) -> "Batches":
        """The same, but for a U-Net that was never trained (PyTorch's own initialisation)."""
        model = self.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet = UNet(model.config.unet).eval().requires_grad_(False)
        unet = unet.to(model.device, model.dtype)
        return replace(self, model=StableDiffusion(replace(model.components, unet=unet)))

    def pictures(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Tensor:
        """A picture for each prompt with its seed: ``[n, 3, H, W]`` fp32 on the CPU, colours 0..1 and
        not clamped."""
        return torch.cat([self._batch(prompts[part], seeds[part]) for part in self._parts(prompts)])

    def attention(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], words: Sequence[Sequence[Word]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The pictures, and which share of its attention each place gave to the words of its prompt.

        Every prompt has as many words. The shares are means over heads and calls, by layer:
        ``[n, words, h, w]``, with h and w the layer's own.
        """
        pictures: list[Tensor] = []
        shares: dict[str, list[Tensor]] = {}
        for part in self._parts(prompts):
            matrix = _word_matrix(prompts[part], words[part]).to(self.model.device)

            def of_words(probs: Tensor, matrix: Tensor = matrix) -> Tensor:
                return (probs.mean(dim=1).float() @ matrix).transpose(1, 2)  # [n, words, places]

            reduce = [of_words, mean_over_steps()]
            with self.model.record(PROBS, branch="cond", reduce=reduce) as trace:
                pictures.append(self._batch(prompts[part], seeds[part]))
            for name in trace.names:
                recording = trace[name]
                h, w = recording.hw or (1, 1)
                shares.setdefault(name.removesuffix(".probs"), []).append(
                    recording.tensor.view(*recording.tensor.shape[:-1], h, w).cpu()
                )
        return torch.cat(pictures), {name: torch.cat(rows) for name, rows in shares.items()}

    def derivatives(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], words: Sequence[Word]
    ) -> Tensor:
        """The exact derivative of each picture along the direction of one word's vectors, as
        `mapping.gradient.word_derivatives` defines it: ``[n, 3, H, W]``."""
        derivatives = []
        for part in self._parts(prompts):
            contexts = torch.cat([prompt.context for prompt in prompts[part]])
            directions = [
                direction(prompt, word)
                for prompt, word in zip(prompts[part], words[part], strict=True)
            ]

            def pictures(contexts: Tensor, part: slice = part) -> Tensor:
                rows = zip(prompts[part], contexts, strict=True)
                return self._batch([p.with_context(row[None]) for p, row in rows], seeds[part])

            _, tangent = directional_derivative(pictures, contexts, torch.cat(directions))
            derivatives.append(tangent)
        return torch.cat(derivatives)

    def kept(self, prompt: Prompt, seed: int, word: Word, places: Tensor) -> Tensor:
        """Pictures in which only some places may look at a word: ``[n, 3, H, W]``.

        `places` are ``[n, h, w]`` of bool; coarser layers keep the share of their places. What attention
        the word loses goes to the start token.
        """
        pictures = []
        for part in self._parts(places):
            edit = _keep(places[part].float().to(self.model.device), list(word.positions))
            with self.model.edit(PROBS, edit, branch="cond"):
                count = len(places[part])
                pictures.append(self._batch([prompt] * count, [seed] * count))
        return torch.cat(pictures)

    def _parts(self, rows: Sequence[Any] | Tensor) -> list[slice]:
        return [slice(i, min(i + self.size, len(rows))) for i in range(0, len(rows), self.size)]

    def _batch(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> Tensor:
        noise = self.model.noise(list(seeds))
        pictures = self.model.generate(list(prompts), noise, **self.settings).decode()
        self.on_pictures(len(prompts))
        return (pictures * 0.5 + 0.5).cpu()


def direction(prompt: Prompt, word: Word) -> Tensor:
    """The word's vectors, scaled to length 1 together, and zero at all other tokens: ``[1, M, C]``."""
    away = torch.zeros_like(prompt.context)
    positions = list(word.positions)
    away[:, positions] = prompt.context[:, positions]
    unit: Tensor = away / away.norm()
    return unit


def _word_matrix(prompts: Sequence[Prompt], words: Sequence[Sequence[Word]]) -> Tensor:
    """1 where a token belongs to a word: ``[n, tokens, words]``."""
    matrix = torch.zeros(len(prompts), prompts[0].context.shape[1], len(words[0]))
    for row, several in enumerate(words):
        for column, word in enumerate(several):
            matrix[row, list(word.positions), column] = 1.0
    return matrix


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
