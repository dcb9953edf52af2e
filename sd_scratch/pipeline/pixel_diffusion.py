"""`PixelDiffusion`: a class and noise to a small picture, with the samplers of the large model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sd_scratch.checkpoints.pixel_model import PixelComponents, load_pixel_model
from sd_scratch.diffusion.noise import NoiseSource
from sd_scratch.diffusion.prediction import eps_from_x0, interpret, target
from sd_scratch.diffusion.samplers import Step, get_sampler
from sd_scratch.diffusion.schedule import Ladder, Schedule
from sd_scratch.errors import NotFinite, UsageError
from sd_scratch.limits import whole
from sd_scratch.pipeline.blame import explain
from sd_scratch.pipeline.branches import COND, Scales
from sd_scratch.pipeline.checks import check_number
from sd_scratch.pipeline.denoise import denoise
from sd_scratch.pipeline.estimate import check_pixel_run, kept_bytes
from sd_scratch.pipeline.run_tensors import (
    Guidance,
    Sampling,
    Watch,
    show_loop,
    unless_recorded,
)
from sd_scratch.pipeline.way import Way
from sd_scratch.tensors import Recordable, Run, Taps

Classes = Sequence[int | str | None] | int | str | None
BATCH = 100  # pictures that `generate` makes at once


class PixelDiffusion(Recordable):
    """A pixel denoiser, its schedule, and the loop that joins them (Ho et al. 2020,
    arXiv:2006.11239; classes by Ho and Salimans 2022, arXiv:2207.12598).

    Its tensors are named ``unet.*``, ``guidance.*`` and ``sampler.*``; `record` and `edit` work as on the
    large model.
    """

    def __init__(self, components: PixelComponents) -> None:
        self.config = components.config
        self.unet = components.network
        self.schedule = Schedule(components.config.schedule)
        network = components.config.network
        self.shape = (network.in_channels, network.sample_size, network.sample_size)
        self.no_class = network.num_classes
        self.guidance, self.sampling = Guidance(), Sampling()
        roots = {"unet": self.unet, "guidance": self.guidance, "sampler": self.sampling}
        self.taps = Taps(roots, self._dry_run)

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @unless_recorded
    def steps(
        self,
        classes: Classes,
        seeds: Sequence[int] | int,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        schedule: str | Ladder | None = None,
        guidance: float | None = None,
        **options: bool | float | str,
    ) -> Iterator[Step]:
        """From noise to pictures, one `Step` at a time; the last `x_next` are the pictures.

        Args:
            classes: one per picture or one for all, by number or name; None for no class.
            seeds: one per picture, for all of its noise.
            sampler: a name from `sd_scratch.diffusion.samplers.SAMPLERS`.
            steps: 1 to the schedule's length.
            schedule: one of `sd_scratch.diffusion.spacing.SPACINGS`, or a ladder.
            guidance: scale of classifier-free guidance: 1 is only the class, 0 no class. Ho and Salimans'
                weight w is the scale 1 + w.
            options: the sampler's own, such as ``eta`` for DDIM.

        Raises:
            ScratchError: bad settings, or pictures that are no longer finite.
        """
        chosen = get_sampler(sampler or self.config.sampler)
        if steps is None and not isinstance(schedule, Ladder):
            steps = self.config.steps
        if chosen.name == "ddpm":
            options.setdefault("variance", self.config.variance)
        way = Way(chosen, options, chosen.ladder(self.schedule, steps, schedule), schedule)
        scale = self.config.guidance if guidance is None else guidance
        scales = Scales(check_number("guidance", scale))
        branches = len(scales.branches)
        seeds = _seeds(seeds)
        check_pixel_run(self.config, len(seeds), self.device, branches=branches)
        numbers = [self._class(one) for one in _classes(classes, len(seeds))]
        rows = torch.tensor(numbers, device=self.device)
        noise, watch = NoiseSource(seeds), Watch(self.taps, self.schedule)
        x = way.ladder.noise_scale * noise.draw(self.shape, self.device)

        asked: dict[int, tuple[Tensor, float]] = {}  # what the network was asked first at this step

        def predict(x_t: Tensor, t: float) -> Tensor:
            if watch.steps not in asked:
                asked.clear()
                asked[watch.steps] = x_t, t
            predicted = self._predict(x_t, t, rows, scales, watch)
            return self._clip(predicted, x_t, t) if self.config.clip_x0 else predicted

        def blame(what: str) -> NotFinite:
            x_t, t = next(iter(asked.values()))
            number = torch.full((len(x_t),), t, device=x_t.device)
            return explain(what, {"unet": self.unet}, "unet", self.unet, x_t, number, rows)

        def describe() -> Run:
            facts = {"classes": rows.tolist(), "seeds": list(seeds), **way.plain, "guidance": scale}
            hw = (self.shape[1], self.shape[2])
            return Run(hw, way.calls, len(rows), scales.branches, facts=facts)

        with self.taps.running(describe):
            if kept := kept_bytes(self.taps, self.config.network, branches * way.calls, x):
                check_pixel_run(self.config, len(seeds), self.device, branches=branches, kept=kept)
            yield from denoise(predict, x, way, noise, self.sampling, watch, blame=blame)

    def generate(self, classes: Classes, seeds: Sequence[int] | int, **settings: Any) -> Tensor:
        """Run all of `steps`, which takes the same settings: pictures ``[B, C, S, S]`` in -1..1."""
        seeds = _seeds(seeds)
        classes = _classes(classes, len(seeds))
        parts = []
        for first in range(0, max(len(seeds), 1), BATCH):
            part = slice(first, first + BATCH)
            for step in self.steps(classes[part], seeds[part], **settings):
                last = step.x_next
            parts.append(self.to_picture(last))
        return torch.cat(parts)

    def to_picture(self, x: Tensor) -> Tensor:
        """The network's pixels, black at `low` and white at 1, as pictures in -1..1."""
        low = self.config.low
        return ((x - low) * (2 / (1 - low)) - 1).clamp(-1, 1)

    def _dry_run(self, roots: Mapping[str, Any], hw: tuple[int, int] | None) -> None:
        """`Taps` finds the names by it. The size is the model's own."""
        with torch.device("meta"):
            x, t = torch.zeros(1, *self.shape), torch.zeros(1)
            number = torch.zeros(1, dtype=torch.long)
        show_loop(roots, x, lambda: roots["unet"](x, t, number))

    def _class(self, given: int | str | None) -> int:
        """A class by its number or its name."""
        if given is None:
            return self.no_class
        names = self.config.class_names
        number = names.index(given) if given in names else whole(given)
        if number is None or not 0 <= number < self.no_class:
            raise UsageError(
                f"class {given} is not in 0..{self.no_class - 1}"
                f" - this model knows {', '.join(names[:20])}"
            )
        return number

    def _predict(
        self, x_t: Tensor, t: float, classes: Tensor, scales: Scales, watch: Watch
    ) -> Tensor:
        """The guided prediction; both branches in one call, [uncond, cond]."""
        branches = scales.branches
        nothing = torch.full_like(classes, self.no_class)
        rows = torch.cat([classes if branch == COND else nothing for branch in branches])
        x_t = torch.cat([x_t] * len(branches))
        timestep = torch.full((len(x_t),), t, device=x_t.device)
        with watch.call(t, branches):
            predicted: Tensor = self.guidance(self.unet(x_t, timestep, rows), scales)
            return predicted

    def _clip(self, raw: Tensor, x_t: Tensor, t: float) -> Tensor:
        """The prediction after its clean picture is clipped to `low`..1."""
        kind = self.config.schedule.prediction_type
        alpha_bar = 1.0 / (1.0 + self.schedule.sigma_at(t) ** 2)
        x0 = interpret(raw, x_t, alpha_bar, kind).x0.clamp(self.config.low, 1.0)
        return target(x0, eps_from_x0(x0, x_t, alpha_bar), alpha_bar, kind)


def _classes(given: Any, count: int) -> list[int | str | None]:
    """One class for each of `count` seeds; a single one is for all."""
    if given is None or isinstance(given, str) or whole(given) is not None:
        return [given] * count
    if not isinstance(given, Iterable):
        raise UsageError(f"classes: give a class or one for each seed, not {given!r}")
    classes = list(given)
    if len(classes) != count:
        raise UsageError(f"{len(classes)} classes for {count} seeds")
    return classes


def _seeds(given: Any) -> list[int]:
    if whole(given) is not None:
        return [given]
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(f"seeds: give a whole number or several, not {given!r}")
    return list(given)


def load_pixels(source: str, device: str | torch.device = "cpu") -> PixelDiffusion:
    """Load a pixel model: a shipped one by its name, or a folder."""
    components = load_pixel_model(source)
    components.network.to(device)
    return PixelDiffusion(components)
