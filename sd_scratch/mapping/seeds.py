"""What the noise alone decides: one prompt from many seeds.

Means and variances are kept as they run (Chan, Golub & LeVeque 1979, equations 2.1 and 2.2), so that
a run can stop, go on later, and never hold more than a batch of pictures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sd_scratch.pipeline.image_noise import ImageNoise
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.stable_diffusion import StableDiffusion


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and summed squared deviations of tensors of one shape, in float64."""

    count: int
    mean: Tensor = field(repr=False)
    squares: Tensor = field(repr=False)

    @classmethod
    def of(cls, values: Tensor) -> "Moments":
        """Of ``[n, ...]``."""
        values = values.double()
        mean = values.mean(dim=0)
        return cls(len(values), mean, (values - mean).square().sum(dim=0))

    def merged(self, other: "Moments") -> "Moments":
        """Of both together."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = apart.square() * (self.count * other.count / count)
        return Moments(count, mean, self.squares + other.squares + between)

    @property
    def variance(self) -> Tensor:
        """The unbiased estimate; zero of a single value."""
        return self.squares / max(self.count - 1, 1)


def running(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (unbiased; 0 of one value) of the first 1, 2, ... n of ``[n]``
    values: two tensors ``[n]``."""
    values = values.double()
    means, deviations = [], []
    for end in range(1, len(values) + 1):
        moments = Moments.of(values[:end])
        means.append(moments.mean)
        deviations.append(moments.variance.sqrt())
    empty = values.new_zeros(0)
    return torch.stack(means) if means else empty, torch.stack(deviations) if means else empty


def seed_pictures(
    model: StableDiffusion,
    prompt: Prompt,
    noise: ImageNoise,
    settings: Mapping[str, Any],
    on_step: Callable[[int], object] = lambda pictures: None,
) -> Tensor:
    """One prompt from each noise: 8-bit pictures ``[seeds, 3, H, W]``. `settings` are those of
    `StableDiffusion.steps`; `on_step` is told after each step how many pictures took it."""
    latent = noise.latent
    for step in model.steps(prompt, noise, **settings):
        latent = step.x_next
        on_step(len(noise))
    colours = noise.with_latent(latent, t=0).decode() * 0.5 + 0.5
    return (colours.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
