"""Seeds to noise, one generator per image."""

import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from sd_scratch.errors import UsageError

MAX_SEED = 2**64 - 1


def random_seed() -> int:
    """A fresh seed below 2^32, from the operating system."""
    return secrets.randbelow(2**32)


class NoiseSource:
    """Unit-variance Gaussian noise for a batch in which every image keeps its own stream.

    Image i draws from a CPU generator seeded with `seeds[i]`, in float32, and the result is moved
    afterwards: an image depends neither on the batch that it is made in nor on the device. This is
    also the noise that diffusers makes from a CPU generator. Seeds are whole numbers from 0 to
    2^64 - 1, else `UsageError`; torch's CPU generator hears only their lower 32 bits.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        if not seeds:
            raise UsageError("no seeds were given - a batch needs one for each image")
        self.seeds = tuple(_check(seed) for seed in seeds)
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in self.seeds]

    def draw(
        self,
        shape: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The next noise of every image: `shape` without the batch -> ``[B, *shape]``."""
        images = [
            torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
            for generator in self._generators
        ]
        return torch.stack(images).to(device=device, dtype=dtype)


def _check(seed: int) -> int:
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        raise UsageError(f"seed {seed!r} cannot be used - give a whole number from 0 to {MAX_SEED}")
    return seed
