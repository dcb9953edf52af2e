"""`Rendering`: the picture as a function of the prompt's vectors alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sd_scratch.errors import ScratchError
from sd_scratch.pipeline.image_noise import ImageNoise
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.stable_diffusion import StableDiffusion


def _nothing(pictures: int) -> None:
    pass


@dataclass(frozen=True)
class Rendering:
    """Everything about a run but its prompt: model, noise, sampler, steps, guidance.

    What a word does is seen by changing its vectors and nothing else.

    Attributes:
        model: what makes the pictures.
        noise: where they start, of one seed; every picture starts at the same.
        settings: those of `StableDiffusion.steps`: sampler, steps, guidance, negative, ...
        batch_size: pictures that are made at a time.
        on_step: told, after every step, how many pictures took it.
    """

    model: StableDiffusion
    noise: ImageNoise
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 8
    on_step: Callable[[int], object] = _nothing

    def __post_init__(self) -> None:
        if len(self.noise) != 1:
            raise ScratchError(f"a rendering starts from one noise, not from {len(self.noise)}")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures in pixels."""
        return self.noise.width, self.noise.height

    def with_settings(self, **settings: Any) -> "Rendering":
        return replace(self, settings={**self.settings, **settings})

    def colours(self, prompts: Sequence[Prompt]) -> Tensor:
        """``[prompts, 3, H, W]`` fp32 on the CPU: 0 is black and 1 full colour, not clamped, so that it
        can be differentiated. A prompt's vectors may carry tangents of forward-mode differentiation."""
        parts = [
            self._part(prompts[start : start + self.batch_size])
            for start in range(0, len(prompts), self.batch_size)
        ]
        return torch.cat(parts)

    def pixels(self, prompts: Sequence[Prompt]) -> Tensor:
        """The same as 8-bit pictures, ``[prompts, 3, H, W]`` uint8: what a PNG of it holds."""
        return (self.colours(prompts).clamp(0, 1) * 255).round().to(torch.uint8)

    def _part(self, prompts: Sequence[Prompt]) -> Tensor:
        count = len(prompts)
        latent = self.noise.latent.expand(count, -1, -1, -1)
        noise = replace(self.noise, latent=latent, seeds=self.noise.seeds * count)
        for step in self.model.steps(list(prompts), noise, **self.settings):
            latent = step.x_next
            self.on_step(count)
        return (noise.with_latent(latent, t=0).decode() * 0.5 + 0.5).cpu()
