"""`Rendering`: pictures as a function of the prompts' vectors and the seeds, all else held fixed."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sd_scratch.diffusion.samplers import Step
from sd_scratch.errors import ScratchError
from sd_scratch.mapping.state import State
from sd_scratch.pictures.pixels import to_bytes
from sd_scratch.pipeline.image_noise import ImageNoise
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.stable_diffusion import StableDiffusion


@dataclass(frozen=True)
class Rendering:
    """Everything about a run but its prompt: model, noise, sampler, steps, guidance.

    Every experiment makes its pictures through one of these. What a word does is seen by changing its
    vectors and nothing else; what the noise does, by changing the seeds and nothing else.

    Attributes:
        model: what makes the pictures.
        noise: where pictures start for which no seed is given; it also sets their size.
        settings: those of `TextToImage.steps`: sampler, steps, guidance, negative, ...
        batch_size: pictures that are made at a time.
        on_step: told, after every step, how many pictures took it.
        state: where finished batches are kept and looked for, so that a run that stopped goes on.
    """

    model: StableDiffusion
    noise: ImageNoise
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 8
    on_step: Callable[[int], object] = lambda pictures: None
    state: State | None = None

    def __post_init__(self) -> None:
        if len(self.noise) != 1:
            raise ScratchError(f"a rendering starts from one noise, not from {len(self.noise)}")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures in pixels."""
        return self.noise.width, self.noise.height

    def with_settings(self, **settings: Any) -> "Rendering":
        return replace(self, settings={**self.settings, **settings})

    def afresh(self) -> "Rendering":
        """The same, which neither keeps batches nor looks for them: for runs that are watched."""
        return replace(self, state=None)

    def colours(self, prompts: Sequence[Prompt], seeds: Sequence[int] | None = None) -> Tensor:
        """A picture for each prompt, ``[prompts, 3, H, W]`` fp32 on the CPU.

        0 is black and 1 full colour, not clamped, so that it can be differentiated: a prompt's vectors
        may carry tangents of forward-mode differentiation. `seeds` gives each prompt a noise of its
        own; without them all start from `noise`.
        """
        return self.timed(prompts, seeds)[0]

    def pixels(self, prompts: Sequence[Prompt], seeds: Sequence[int] | None = None) -> Tensor:
        """The same as 8-bit pictures, ``[prompts, 3, H, W]`` uint8: what a PNG of it holds."""
        return to_bytes(self.colours(prompts, seeds))

    def timed(
        self, prompts: Sequence[Prompt], seeds: Sequence[int] | None = None
    ) -> tuple[Tensor, float]:
        """`colours`, and the seconds that it took to make them, decoding included."""
        if seeds is not None and len(seeds) != len(prompts):
            raise ScratchError(f"{len(seeds)} seeds for {len(prompts)} prompts")
        parts = []
        for part in self.batches(len(prompts)):
            few = prompts[part], None if seeds is None else seeds[part]
            parts.append(self.once("colours", *few, partial(self._make, *few)))
        seconds = sum(float(part["seconds"]) for part in parts)
        return torch.cat([part["colours"] for part in parts]), seconds

    def batches(self, count: int) -> list[slice]:
        """`count` rows in parts that are made at a time."""
        return [slice(i, min(i + self.batch_size, count)) for i in range(0, count, self.batch_size)]

    def once(
        self,
        what: str,
        prompts: Sequence[Prompt],
        seeds: Sequence[int] | None,
        make: Callable[[], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """What `make` returns for these prompts, seeds and settings; with a `state`, what it returned
        before a run stopped."""
        if self.state is None:
            return make()
        settings = sorted((key, _plain(value)) for key, value in self.settings.items())
        contexts = [_plain(prompt) for prompt in prompts]
        noise = [_digest(self.noise.latent), self.noise.t, self.noise.drawing]
        facts = (what, contexts, list(seeds or self.noise.seeds), noise, self.size, settings)
        name = hashlib.sha256(repr(facts).encode()).hexdigest()[:20]
        found = self.state.read(name)
        if found is None:
            found = make()
            self.state.write(name, found)
        return found

    def steps(
        self, prompts: Sequence[Prompt], seeds: Sequence[int] | None = None
    ) -> Iterator[Step]:
        """One batch on its way, step by step; the last step's `x_next` are the pictures' latents."""
        if seeds is None:
            latent = self.noise.latent.expand(len(prompts), -1, -1, -1)
            noise = replace(self.noise, latent=latent, seeds=self.noise.seeds * len(prompts))
        else:
            noise = self.model.noise(list(seeds), *self.size, self.noise.drawing)
        for step in self.model.steps(list(prompts), noise, **self.settings):
            self.on_step(len(prompts))
            yield step

    def decode(self, latent: Tensor) -> Tensor:
        """Latents ``[n, 4, h, w]`` to colours ``[n, 3, H, W]`` as `colours` has them."""
        return (self.noise.with_latent(latent, t=0).decode() * 0.5 + 0.5).cpu()

    def _make(self, prompts: Sequence[Prompt], seeds: Sequence[int] | None) -> dict[str, Tensor]:
        started = time.perf_counter()
        for step in self.steps(prompts, seeds):
            latent = step.x_next
        colours = self.decode(latent)
        return {"colours": colours, "seconds": torch.tensor(time.perf_counter() - started)}


def _plain(value: object) -> str:
    """A setting as text that says which one it is: a prompt by its text and its vectors."""
    if not isinstance(value, Prompt):
        return str(value)
    return f"{value.text} {value.syntax} {value.clip_skip} {_digest(value.context)}"


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().float().cpu().numpy().tobytes()).hexdigest()
