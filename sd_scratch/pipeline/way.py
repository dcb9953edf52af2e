"""`Way`: how a run gets from noise to picture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sd_scratch.diffusion.samplers import Denoiser, Draw, Sampler, Step, Steps
from sd_scratch.diffusion.schedule import Ladder

Change = Callable[[Step], Tensor]
"""Makes of a finished step the sample ``[B, C, h, w]`` that the run goes on from; `Step.x_next` is that
of the sampler. A mask keeps a part of a picture so."""


@dataclass(frozen=True)
class Way:
    """A sampler, its own options, and the ladder that it goes down.

    Attributes:
        schedule: how the ladder was asked for: the spacing's name, None for the sampler's own, or the
            ladder itself as JSON can say it.
    """

    sampler: Sampler
    options: Mapping[str, Any]
    ladder: Ladder
    schedule: Any

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON can say it."""
        return {
            "sampler": self.sampler.name,
            "sampler_options": dict(self.options),
            "steps": len(self.ladder),
            "schedule": self.schedule,
        }

    def run(self, predict: Denoiser, x: Tensor, draw: Draw) -> Steps:
        """The sampler at work, from a sample on the top rung."""
        return self.sampler.run(predict, x, self.ladder, draw, **self.options)

    @property
    def calls(self) -> int:
        """How often the network is called."""
        return len(self.timesteps)

    @property
    def timesteps(self) -> list[float]:
        """The timestep of every call."""
        return self._rehearse()[0]

    @property
    def draws_noise(self) -> bool:
        """Whether any fresh noise is drawn on the way."""
        return self._rehearse()[1] > 0

    def _rehearse(self) -> tuple[list[float], int]:
        """The sampler run with a network that answers zero: the timesteps that it asks at, and how often it
        draws noise."""
        called: list[float] = []
        noise, drawn = torch.zeros(1, 1), 0

        def zero(x_t: Tensor, t: float) -> Tensor:
            called.append(t)
            return torch.zeros_like(x_t)

        def draw() -> Tensor:
            nonlocal drawn
            drawn += 1
            return noise

        for _ in self.run(zero, noise, draw):
            pass
        return called, drawn
