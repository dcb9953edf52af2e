"""`TextToImage`: text and noise to a picture, step by step in `TextToImage.steps`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any, ParamSpec, TypeVar

import torch
from PIL import Image

from sd_scratch.checkpoints import Components
from sd_scratch.checkpoints.adapters.apply import Adapter, seamless, with_adapters
from sd_scratch.checkpoints.adapters.control import LoadedControl
from sd_scratch.diffusion.noise import Drawing, NoiseSource
from sd_scratch.diffusion.samplers import Sampler, Step, get_sampler
from sd_scratch.diffusion.schedule import Ladder, Schedule
from sd_scratch.errors import UsageError, memory_told
from sd_scratch.limits import STRENGTH_STEPS, TILINGS
from sd_scratch.networks.kernels import cells_of, choose_by_rule, choose_cells
from sd_scratch.pictures.masks import Mask
from sd_scratch.pipeline.asking import Asking
from sd_scratch.pipeline.branches import Scales
from sd_scratch.pipeline.canvas import Canvas, keeping, kinds_of, make_canvas
from sd_scratch.pipeline.checks import (
    check_inputs,
    check_noise,
    check_number,
    check_own_sampler,
    check_side,
)
from sd_scratch.pipeline.coding import encode
from sd_scratch.pipeline.conditioning import Conditioning, Texts
from sd_scratch.pipeline.control import Control, Steering, control_name
from sd_scratch.pipeline.denoise import denoise
from sd_scratch.pipeline.estimate import check_run, kept_bytes
from sd_scratch.pipeline.fast import Fast
from sd_scratch.pipeline.fast.plan import plan_run
from sd_scratch.pipeline.image_noise import ImageNoise, Pictures, pictures_to_tensor
from sd_scratch.pipeline.part_way import part_of
from sd_scratch.pipeline.perturbed import LAYERS
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.run_tensors import (
    Guidance,
    Sampling,
    Watch,
    describe_run,
    digest,
    dry_run,
    unless_recorded,
)
from sd_scratch.pipeline.settings import Option
from sd_scratch.pipeline.tuning import convolutions_are_fast
from sd_scratch.pipeline.way import Change, Way
from sd_scratch.tensors import Recordable, Taps, TensorInfo

Model = TypeVar("Model", bound="TextToImage")
Settings = ParamSpec("Settings")


def to_the_end(steps: Callable[Settings, Iterator[Step]]) -> Callable[Settings, ImageNoise]:
    """The method that runs all of `steps`, with the same settings."""
    order = signature(steps)

    def generate(*args: Settings.args, **kwargs: Settings.kwargs) -> ImageNoise:
        """Run all of `steps`, which takes the same settings: the picture's latent, at t = 0."""
        given = order.bind(*args, **kwargs).arguments
        model: TextToImage = given["self"]
        noise: ImageNoise = given["noise"]
        latent = check_noise(noise).latent
        for step in steps(*args, **kwargs):
            latent = step.x_next
        return replace(noise.with_latent(latent, t=0), autoencoder=model.vae)

    generate.__signature__ = order.replace(return_annotation=ImageNoise)  # type: ignore[attr-defined]
    return generate


class TextToImage(Recordable):
    """A text encoder, a U-Net, an autoencoder and a schedule, and the loop that joins them.

    Rombach et al. 2022 (arXiv:2112.10752).
    """

    def __init__(
        self, components: Components, adapters: Sequence[Adapter] = (), tiling: str = ""
    ) -> None:
        self.base, self.adapters, self.tiling = components, tuple(adapters), tiling
        components = with_adapters(components, self.adapters)
        if tiling:
            unet, vae = seamless(components.unet, tiling), seamless(components.vae, tiling)
            components = replace(components, unet=unet, vae=vae)
        self.components = components
        self.config = components.config
        self.tokenizer = components.tokenizer
        self.text = components.text
        self.unet = components.unet
        self.vae = components.vae
        self.schedule = Schedule(components.config.schedule)
        self.guidance, self.sampling = Guidance(), Sampling()
        loaded = [a.network for a in self.adapters if isinstance(a, LoadedControl)]
        controls = {control_name(i): seamless(network, tiling) for i, network in enumerate(loaded)}
        self.networks = {**components.networks, **controls}
        for network in self.networks.values():
            choose_by_rule(network, convolutions_are_fast(self.device, self.dtype))
        for network in controls.values():
            choose_cells(network, cells_of(self.unet))
        roots = {**self.networks, "guidance": self.guidance, "sampler": self.sampling}
        self.taps = Taps(roots, dry_run(self.config))
        self.conditioning = Conditioning(self.tokenizer, self.text, self.taps)

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The networks' computing type; latents between the steps are always fp32."""
        return self.unet.conv_in.weight.dtype

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def with_adapters(self: Model, *adapters: Adapter) -> Model:
        """The same model with only these adapters; with none it is as it was loaded."""
        return type(self)(self.base, adapters, self.tiling)

    def with_tiling(self: Model, axes: str) -> Model:
        """The same model for pictures whose opposite edges fit: "x" the left and the right one, "y" the upper
        and the lower, "xy" both, "" none. Its networks share the weights, and pad with the opposite edge
        instead of zeros. Raises UsageError for other axes."""
        if axes not in TILINGS:
            raise UsageError(f"tiling {axes!r} is unknown - use x, y or xy")
        if axes == self.tiling:
            return self
        self._check_unheard(f"tiling '{axes}'", "with_tiling")
        return type(self)(self.base, self.adapters, axes)

    def with_text_cleaning(self: Model, style: str) -> Model:
        """The same model with prompts cleaned in that style of `sd_scratch.text.cleaning`."""
        old = self.base.tokenizer
        if style == old.text_cleaning:
            return self
        self._check_unheard(f"text cleaning '{style}'", "with_text_cleaning")
        tokenizer = old.changed(text_cleaning=style)
        return type(self)(replace(self.base, tokenizer=tokenizer), self.adapters, self.tiling)

    def _check_unheard(self, what: str, method: str) -> None:
        if self.taps.members:
            raise UsageError(
                f"{what} makes another model, and tensors of this one are recorded or edited - do that"
                f" with model.{method}'s"
            )

    # Inputs ---------------------------------------------------------------------------------

    @memory_told()
    def prompt(
        self, text: str, *, clip_skip: int = 1, syntax: str = "a1111", emphasis: str = "a1111"
    ) -> Prompt:
        """Encode a text.

        Args:
            clip_skip: counts the text encoder's layers from the end (2 skips the last), as in A1111.
            syntax: the meaning of brackets, one of `sd_scratch.text.syntax.SYNTAXES`; "plain" for none.
            emphasis: how weights act, one of `sd_scratch.pipeline.emphasis.EMPHASES`.

        Raises:
            UsageError: bad syntax, or a text that no tokenizer can read.
        """
        return self.conditioning.prompt(text, clip_skip, syntax, emphasis)

    def noise(
        self,
        seed: int | Sequence[int] = 0,
        width: int | None = None,
        height: int | None = None,
        drawing: Drawing | None = None,
    ) -> ImageNoise:
        """Pure noise for one seed or several; width and height in pixels, the model's own by default.

        Each image has its own numbers, made on the CPU, so it depends neither on the batch nor, up to
        rounding, on the device. `drawing` chooses the generator, and another seed to turn towards.
        """
        drawing = Drawing() if drawing is None else drawing
        several = isinstance(seed, Iterable) and getattr(seed, "ndim", 1) > 0
        seeds = NoiseSource(tuple(seed) if several else (seed,)).seeds  # type: ignore[arg-type]
        cell = self.config.vae.downscale
        sides = [self.config.sample_size if side is None else side for side in (height, width)]
        named = zip(("height", "width"), sides, strict=True)
        h, w = (check_side(name, side, cell) // cell for name, side in named)
        shape = (self.config.vae.latent_channels, h, w)
        self._check_memory((len(seeds), *shape))
        latent = NoiseSource(seeds, drawing).draw(shape, self.device, torch.float32)
        last = self.config.schedule.num_train_timesteps - 1
        return ImageNoise(latent, last, seeds, self.vae, self.schedule, drawing)

    def encode(self, pictures: Pictures, seed: int = 0) -> ImageNoise:
        """Pictures of one size to latents at t = 0: the mean of the autoencoder's posterior."""
        image = pictures_to_tensor(pictures)
        for name, side in zip(("height", "width"), image.shape[2:], strict=True):
            check_side(name, side, self.config.vae.downscale)
        # Contiguous as a stored one is, which another layout would not equal to the last bit.
        latent = self.vae.to_latent(encode(self.vae, image)).float().contiguous()
        first = NoiseSource((seed,)).seeds[0]
        seeds = NoiseSource([first + i for i in range(len(image))]).seeds
        return ImageNoise(latent, 0, seeds, self.vae, self.schedule)

    def canvas(
        self, picture: Image.Image, mask: Image.Image | Mask | None = None, **options: Any
    ) -> Canvas:
        """A picture to paint on, and where: see `sd_scratch.pipeline.canvas.make_canvas`."""
        return make_canvas(self.components, self.encode, picture, mask, **options)

    def begin(
        self,
        picture: ImageNoise,
        strength: float = 0.75,
        *,
        counted: str = STRENGTH_STEPS[0],
        sampler: str | Sampler | None = None,
        steps: int | None = None,
        schedule: str | Ladder | None = None,
    ) -> ImageNoise:
        """A picture, from `encode`, with the noise from which a run of these settings takes the share
        `strength` of its steps (Meng et al. 2021, arXiv:2108.01073), 0 to 1; 0 is the picture itself.
        `counted` says how many these are, see `sd_scratch.pipeline.part_way.part_of`: int(steps * strength),
        as diffusers counts, and one at least. For "comfy" the run has `Part.levels` as its steps.
        Raises `UsageError` outside 0..1."""
        check_noise(picture)
        if not 0.0 <= check_number("strength", strength) <= 1.0:
            raise UsageError(f"strength {strength:g} is out of range - give a number from 0 to 1")
        if strength == 0.0:
            return picture
        if isinstance(schedule, Ladder) and counted == "comfy":
            raise UsageError("a ladder of your own has no longer one - count as diffusers")
        if isinstance(schedule, Ladder):
            steps = len(schedule)
        elif steps is None:
            steps = self.config.steps_with(self._sampler(sampler).name)
        part = part_of(self.schedule.check_steps(steps), strength, counted)
        return picture.on(part.of(self.way(sampler, part.levels, schedule).ladder))

    # The loop -------------------------------------------------------------------------------

    @unless_recorded
    def steps(
        self,
        prompt: Texts,
        noise: ImageNoise,
        *,
        negative: Texts | None = None,
        sampler: str | Sampler | None = None,
        steps: int | None = None,
        schedule: str | Ladder | None = None,
        guidance: float | None = None,
        guidance_rescale: float = 0.0,
        pag: float = 0.0,
        pag_layers: str = LAYERS,
        pag_adaptive_scale: float = 0.0,
        control: Control | Sequence[Control] = (),
        canvas: Canvas | None = None,
        change: Change | None = None,
        fast: Fast = (),
        **options: Option,
    ) -> Iterator[Step]:
        """From noise to picture, one `Step` at a time; the last step's `x_next` is the picture's latent.

        Args:
            prompt: one for all images, or one per image; a text is encoded with the defaults of `prompt`.
            noise: where to start: pure, from `noise`, or half way, from `ImageNoise.noised`.
            negative: the prompt to steer away from, likewise; the empty prompt by default.
            sampler: one of `sd_scratch.diffusion.samplers.SAMPLERS`, by name, or one of your own.
            steps: how many, 1 to the length of the model's schedule, counted from pure noise: a run
                from half way takes the last of them.
            schedule: one of `sd_scratch.diffusion.spacing.SPACINGS`, the model's own by default; or a ladder
                of your own, from ``model.schedule.ladder_of_sigmas``.
            guidance: classifier-free guidance scale (Ho & Salimans 2022, arXiv:2207.12598); 1 is only the
                prompt and 0 only the negative prompt, each at half the cost.
            guidance_rescale: how far guidance's contrast is reduced, 0 to 1 (Lin et al. 2023,
                arXiv:2305.08891).
            pag: perturbed attention guidance's scale (Ahn et al. 2024, arXiv:2403.17377), 0 for none, 3 is usual.
                `pag_layers` are the parts of the U-Net, with commas, whose self-attention is perturbed, and
                `pag_adaptive_scale` is the loss of the scale with every timestep.
            control: hint and settings for each of the model's ControlNets.
            canvas: a picture to paint on, from `canvas`.
            change: returns the sample from which the run continues after each step.
            fast: approximations by name, of `sd_scratch.pipeline.fast`; none by default.
            options: the sampler's own, such as ``eta`` for DDIM.

        Raises:
            ScratchError: bad settings, or latents that are no longer finite.
        """
        way = self.way(sampler, steps, schedule, options)
        latent, ladder = check_noise(noise).start(way.ladder, climbs=way.sampler.climbs)
        walked = replace(way, ladder=ladder)
        scale = self.config.guidance if guidance is None else guidance
        check_inputs(self.config, self.components.source, *kinds_of(canvas))
        told = canvas.guidance if canvas else None
        scales = Scales.checked(scale, guidance_rescale, told, pag, pag_adaptive_scale, pag_layers)
        branches, shape = scales.branches, noise.latent.shape
        self._check_memory(shape, len(branches))
        rows = self.conditioning.rows(prompt, negative, len(noise), branches)
        rows, of_steps = self.conditioning.of_steps(rows, len(ladder))
        source, watch = NoiseSource(noise.seeds, noise.drawing), Watch(self.taps, self.schedule)
        first = source.draw(shape[1:], self.device, torch.float32)  # what pure noise starts from
        steering = Steering(self.networks, control, noise, lambda: walked.calls)
        quick = plan_run(fast, self.unet, scales, self.schedule, walked, self.taps.members)
        ask = Asking(self.networks, self.taps, self.guidance, quick, watch, steering, canvas)
        predict, change = keeping(canvas, noise, first, ladder, ask, change)
        facts = {**way.plain, **scales.facts, **quick.facts, "t": noise.t, "tiling": self.tiling}
        run = partial(describe_run, self.networks, self.components.source, rows, noise, canvas)
        with self.taps.running(lambda: run(walked.calls, facts, steering.controls)):
            ask.begin(self.conditioning.contexts(of_steps, self.dtype))
            leads = any(x.requires_grad for x in (latent, *ask.contexts))
            calls = walked.calls * len(branches)
            if kept := kept_bytes(self.taps, self.config.unet, calls, latent, self.dtype, leads):
                self._check_memory(shape, len(branches), kept)
            last = yield from denoise(
                predict, latent, walked, source, self.sampling, watch, change, ask.blame
            )
            self.taps.finish(latent=lambda: digest(last))

    generate = to_the_end(steps)

    def way(
        self,
        sampler: str | Sampler | None = None,
        steps: int | None = None,
        schedule: str | Ladder | None = None,
        options: Mapping[str, Option] | None = None,
    ) -> Way:
        """The sampler, options and ladder of these settings; None is the model's own. Raises ScratchError if
        that is not supported."""
        chosen = self._sampler(sampler)
        given = dict(options or {})
        if chosen.name == self.config.sampler:
            given = {**self.config.sampler_options, **given}
            schedule = self.config.spacing if schedule is None else schedule
        if steps is None and not isinstance(schedule, Ladder):
            steps = self.config.steps_with(chosen.name)
        ladder = chosen.ladder(self.schedule, steps, schedule)
        named = not isinstance(schedule, Ladder) and len(ladder) == steps
        plain = schedule if named else ladder.plain()
        return Way(chosen, given, ladder, plain)

    def _sampler(self, sampler: str | Sampler | None) -> Sampler:
        check_own_sampler(sampler, self.config)
        own = sampler if isinstance(sampler, Sampler) else None
        return own or get_sampler(str(sampler or self.config.sampler))

    def _check_memory(self, shape: Sequence[int], branches: int = 1, kept: int = 0) -> None:
        """Raise MemoryShortage for latents ``[B, C, h, w]`` that do not fit on this device, unless the model
        was loaded with `force`."""
        if not self.components.force:
            (batch, _, h, w), cell = shape, self.config.vae.downscale
            heard = (name for member in self.taps.members for name in member.names)
            check_run(
                self.config,
                w * cell,
                h * cell,
                batch,
                self.dtype,
                self.device,
                branches=branches,
                controls=len(self.networks) - len(self.config.networks),
                kept=kept,
                strips=not any(name.startswith("vae.decoder.") for name in heard),
            )

    # Every tensor -----------------------------------------------------------------------------

    def tensors(
        self, *globs: str, width: int | None = None, height: int | None = None
    ) -> list[TensorInfo]:
        """The tensors of a run that the globs match, all by default, in the order in which they are made:
        names, axes, shapes, bytes, for a picture of that width and height. Nothing runs. Raises ScratchError
        for a glob without a match."""
        cell = self.config.vae.downscale
        size = self.config.sample_size
        h, w = (check_side("side", size if s is None else s, cell) // cell for s in (height, width))
        return list(self.taps.tensors(*globs, hw=(h, w)).values())
