"""Seeds to noise, one stream of numbers for each image."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sd_scratch.errors import UsageError
from sd_scratch.limits import RNGS, whole

MAX_SEED = 2**64 - 1

Words = npt.NDArray[np.uint64]


def random_seed() -> int:
    """A fresh seed below 2^32, from the operating system."""
    return secrets.randbelow(2**32)


@dataclass(frozen=True)
class Drawing:
    """How numbers come from a seed.

    Attributes:
        source: ``"cpu"``, PyTorch's generator for CPUs, which diffusers' examples use; or ``"nv"``, the
            numbers that PyTorch draws on NVIDIA GPUs, computed here (`Philox`).
        delta: added to the seed for all noise except the first, A1111's "eta noise seed delta" (ENSD).
        subseed: the seed of another noise, towards which the first is turned, for image i subseed + i;
            `strength` is how far: 0 not at all, 1 all the way.
    """

    source: str = "cpu"
    delta: int = 0
    subseed: int = 0
    strength: float = 0.0

    def __post_init__(self) -> None:
        if self.source not in RNGS:
            raise UsageError(f"unknown source of noise '{self.source}' - use {' or '.join(RNGS)}")
        if not 0 <= self.strength <= 1:
            raise UsageError(f"the strength {self.strength:g} of a subseed is not in 0..1")
        _check(self.subseed)


class NoiseSource:
    """Unit-variance Gaussian noise for a batch in which every image keeps its own stream.

    Image i draws with `seeds[i]` on the CPU, in float32, and the result is moved afterwards: an image depends
    neither on its batch nor on the device. With ``Drawing("cpu")`` this is
    also the noise that diffusers makes from a CPU generator. Seeds are whole numbers from 0 to 2^64 - 1,
    else `UsageError`; torch's CPU generator uses only their lower 32 bits.
    """

    def __init__(self, seeds: Sequence[int], drawing: Drawing | None = None) -> None:
        if not len(seeds):
            raise UsageError("no seeds were given - a batch needs one for each image")
        self.seeds = tuple(_check(seed) for seed in seeds)
        self.drawing = Drawing() if drawing is None else drawing
        if not isinstance(self.drawing, Drawing):
            raise UsageError(f"drawing: give a sd.Drawing, not {drawing!r:.80}")
        self._streams = [self._stream(seed) for seed in self.seeds]
        self._first = True

    def draw(
        self,
        shape: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The next noise of every image: `shape` without the batch -> ``[B, *shape]``."""
        images = [stream(tuple(shape)) for stream in self._streams]
        if self._first:
            self._first = False
            strength = self.drawing.strength
            if strength:
                first = self.drawing.subseed
                others = [self._stream(first + i)(tuple(shape)) for i in range(len(images))]
                images = [slerp(a, b, strength) for a, b in zip(images, others, strict=True)]
            if self.drawing.delta:
                self._streams = [self._stream(seed + self.drawing.delta) for seed in self.seeds]
        return torch.stack(images).to(device=device, dtype=dtype)

    def _stream(self, seed: int) -> Callable[[tuple[int, ...]], Tensor]:
        seed %= MAX_SEED + 1
        if self.drawing.source == "nv":
            return Philox(seed).normal
        generator = torch.Generator("cpu").manual_seed(seed)
        return lambda shape: torch.randn(shape, generator=generator, dtype=torch.float32)


def slerp(a: Tensor, b: Tensor, amount: float) -> Tensor:
    """From one noise towards another on the arc between them, which keeps the variance (Shoemake 1985),
    as A1111 does it: column by column, angles along axis 1 of ``[C, H, W]``."""
    axis = min(1, a.dim() - 1)
    unit_a, unit_b = (x / x.norm(dim=axis, keepdim=True) for x in (a, b))
    cosine = (unit_a * unit_b).sum(dim=axis, keepdim=True)
    if cosine.mean() > 0.9995:  # one noise: there is no arc
        return a.lerp(b, amount)
    angle = cosine.clamp(-1, 1).acos()
    turned: Tensor = ((1 - amount) * angle).sin() * a + (amount * angle).sin() * b
    result: Tensor = turned / angle.sin()
    return result


class Philox:
    """Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", table 2) and the
    Box-Muller transform, as in NVIDIA's cuRAND called by PyTorch: number i of the n-th draw comes from the
    counter (n, 0, i, 0) and the key (low, high half of the seed).

    The numbers are those of a GPU as long as a draw has fewer numbers than the GPU has threads, which holds
    for latents of pictures up to about 1 megapixel.
    """

    MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
    WEYL = 0x9E3779B9, 0xBB67AE85
    ROUNDS = 10

    def __init__(self, seed: int) -> None:
        self.key = seed & 0xFFFFFFFF, seed >> 32
        self.draws = 0

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """The next draw, fp32."""
        index = np.arange(int(np.prod(shape)), dtype=np.uint64)
        zero = np.zeros_like(index)
        x, y = self._words(zero + np.uint64(self.draws), zero, index, zero)
        self.draws += 1
        # cuRAND's factor 2^-32, in fp32 as there; half of it keeps the logarithm from 0.
        unit = float(np.float32(2.3283064e-10))
        turn = float(np.float32(2.3283064e-10 * 6.2831855))
        radius = np.sqrt(-2 * np.log(x * unit + unit / 2))
        numbers = (radius * np.sin(y * turn + turn / 2)).astype(np.float32)
        return torch.from_numpy(numbers).reshape(shape)

    def _words(self, c0: Words, c1: Words, c2: Words, c3: Words) -> tuple[Words, Words]:
        """The first two of the four 32-bit words from a counter."""
        low, bits = np.uint64(0xFFFFFFFF), np.uint64(32)
        m0, m1 = (np.uint64(m) for m in self.MULTIPLIERS)
        for i in range(self.ROUNDS):
            k0, k1 = (
                np.uint64((k + i * w) & 0xFFFFFFFF)
                for k, w in zip(self.key, self.WEYL, strict=True)
            )
            p0, p1 = c0 * m0, c2 * m1
            c0, c1, c2, c3 = (p1 >> bits) ^ c1 ^ k0, p1 & low, (p0 >> bits) ^ c3 ^ k1, p0 & low
        return c0, c1


def _check(seed: int) -> int:
    number = whole(seed)
    if number is None or not 0 <= number <= MAX_SEED:
        raise UsageError(f"seed {seed!r} cannot be used - give a whole number from 0 to {MAX_SEED}")
    return number
