"""`Way`: a run's path from noise to picture."""

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
    """A sampler, its own options, and its ladder.

    Attributes:
        schedule: the spacing's name, None for the sampler's own, or the ladder itself as JSON.
    """

    sampler: Sampler
    options: Mapping[str, Any]
    ladder: Ladder
    schedule: Any

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "sampler": self.sampler.name,
            "sampler_options": dict(self.options),
            "steps": len(self.ladder),
            "schedule": self.schedule,
        }

    def run(self, predict: Denoiser, x: Tensor, draw: Draw) -> Steps:
        """The sampler's steps, from a sample at the top level."""
        return self.sampler.run(predict, x, self.ladder, draw, **self.options)

    @property
    def calls(self) -> int:
        """The number of calls of the network."""
        return len(self.timesteps)

    @property
    def timesteps(self) -> list[float]:
        """The timestep of every call."""
        return self._rehearse()[0]

    @property
    def draws_noise(self) -> bool:
        """Whether the run draws fresh noise."""
        return self._rehearse()[1] > 0

    def _rehearse(self) -> tuple[list[float], int]:
        """A run with a network that predicts zero: the timesteps of its calls, and the number of its draws."""
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
