"""A run's named tensors beside its networks', guidance's and the sampler's, and its own description."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor, nn

from sd_scratch.checkpoints.parts import parts_of
from sd_scratch.config import ModelConfig
from sd_scratch.diffusion.guidance import guide, guide_by_picture, perturb, rescale
from sd_scratch.diffusion.prediction import velocity
from sd_scratch.diffusion.samplers import Step
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.errors import memory_told
from sd_scratch.networks.controlnet import weighted
from sd_scratch.networks.layers import Conv2d, Linear, computing_type
from sd_scratch.networks.t2i_adapter import T2IAdapter
from sd_scratch.pipeline.branches import COND, PERTURBED, PICTURED, UNCOND, Scales
from sd_scratch.pipeline.canvas import Canvas
from sd_scratch.pipeline.checks import PICTURE, inputs_beside
from sd_scratch.pipeline.control import Control, controls_of, hint_tensor
from sd_scratch.pipeline.image_noise import ImageNoise
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.tensors import Run, Tapped, Taps
from sd_scratch.version import __version__

Arguments = ParamSpec("Arguments")

FINGERPRINT_VALUES = 1024  # of each parameter


class Guidance(Tapped):
    """Classifier-free guidance with named tensors. `pred` is the prediction: eps, v or x0."""

    branched = False  # the two of guidance are not, or no longer, apart

    def forward(self, predictions: Tensor, scales: Scales, delta: Tensor | None = None) -> Tensor:
        """``[branches * B, ...]`` -> ``[B, ...]``. Where `delta` is known, what the prompt adds, its branch alone is
        given."""
        if delta is not None:
            cond = self.tap("pred_cond", predictions)
            guided = cond + (scales.guidance - 1.0) * self.tap("delta", delta)
            return self.tap("pred", rescale(guided, cond, scales.rescale))
        branches = scales.branches
        parts = {
            branch: self.tap(f"pred_{branch}", part)
            for branch, part in zip(branches, predictions.chunk(len(branches)), strict=True)
        }
        if len(parts) == 1:
            return self.tap("pred", parts[branches[0]])
        guided = cond = parts[COND]
        uncond = parts.get(UNCOND)
        if PICTURED in parts and uncond is not None:
            picture = scales.picture or 0.0
            guided = guide_by_picture(uncond, parts[PICTURED], cond, scales.guidance, picture)
        elif uncond is not None:
            if self.probe is not None:
                delta = cond - uncond
                edited = self.tap("delta", delta)
                # Only after an edit: adding the difference again is not the same to the last bit.
                cond = cond if edited is delta else uncond + edited
            guided = guide(uncond, cond, scales.guidance)
        if PERTURBED in parts:
            guided = perturb(guided, parts[COND], parts[PERTURBED], scales.perturbed or 0.0)
        # As in diffusers: what classifier-free guidance has no part in is not rescaled.
        return self.tap("pred", guided if uncond is None else rescale(guided, cond, scales.rescale))


class Sampling(Tapped):
    """The sampler's tensors. Its input and each step's result can be edited; the rest is only shown."""

    branched = False

    def noise(self, latent: Tensor) -> Tensor:
        return self.tap("noise", latent)

    def step_noise(self, noise: Tensor) -> Tensor:
        return self.tap("step_noise", noise)

    def step(self, step: Step, x_next: Tensor | None = None) -> Tensor:
        """Show a step, and return the sample from which to continue: the step's, or an edited `x_next`."""

        def each(number: float) -> Tensor:
            return torch.full(step.x_t.shape[:1], number, device=step.x_t.device)

        self.show("t", lambda: each(step.t))
        self.show("sigma", lambda: each(step.sigma))
        self.show("alpha_bar", lambda: each(step.alpha_bar))
        self.show("x_t", lambda: step.x_t)
        self.show("x0", lambda: step.x0)
        self.show("eps", lambda: step.eps)
        self.show("velocity", lambda: velocity(step.x0, step.eps, step.alpha_bar))
        return self.tap("x_next", step.x_next if x_next is None else x_next)


class Watch:
    """Tells the listeners the progress of a run.

    Calls of the U-Net are counted from 0. The sampler's tensors belong to the first call of its step: PNDM's
    first step calls the U-Net twice.
    """

    def __init__(self, taps: Taps, schedule: Schedule) -> None:
        self.taps = taps
        self.schedule = schedule
        self.calls = self.steps = 0
        self._first = 0

    @contextmanager
    def call(self, t: float, branches: Sequence[str]) -> Iterator[None]:
        with self.taps.calling(self.calls, t, self.schedule.sigma_at(t), branches):
            yield
        self.calls += 1

    @contextmanager
    def draw(self) -> Iterator[None]:
        with self.taps.calling(max(self.calls - 1, 0)):
            yield

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        with self.taps.calling(self._first, step.t, step.sigma):
            yield
        self._first = self.calls
        self.steps += 1


def unless_recorded(
    loop: Callable[Arguments, Iterator[Step]],
) -> Callable[Arguments, Iterator[Step]]:
    """For a method of a model with `taps`: no gradients, unless a recording needs them; and one line if
    memory runs out."""

    @wraps(loop)
    def steps(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Iterator[Step]:
        taps: Taps = args[0].taps  # type: ignore[attr-defined]
        made = (loop if taps.gradients else torch.no_grad()(loop))(*args, **kwargs)

        def told() -> Iterator[Step]:
            with memory_told():
                yield from made

        return told()

    return steps


def dry_run(
    config: ModelConfig,
) -> Callable[[Mapping[str, nn.Module], tuple[int, int] | None], None]:
    """`Taps` finds the names by it: every part is called once, on ``meta`` tensors."""

    def run(roots: Mapping[str, Any], hw: tuple[int, int] | None) -> None:
        cell = config.vae.downscale
        h, w = hw or (config.sample_size // cell,) * 2
        dtype = roots["unet"].conv_in.weight.dtype
        with torch.device("meta"):
            ids = torch.zeros(1, config.text.max_position_embeddings, dtype=torch.long)
            latent = torch.zeros(1, config.vae.latent_channels, h, w)
            x = torch.zeros(1, config.unet.in_channels, h, w, dtype=dtype)
            image = torch.zeros(1, config.vae.in_channels, cell * h, cell * w, dtype=dtype)
            t = torch.zeros(1)
        context = roots["text"].tap("context", roots["text"](ids))
        hint = torch.zeros_like(image[:, :1])
        steered: list[Tensor] = []
        features: list[Tensor] = []
        for network in controls_of(roots):
            seen = hint.expand(-1, network.config.conditioning_channels, -1, -1)
            if isinstance(network, T2IAdapter):
                features = network(seen)
                continue
            made = network(x, t, context, seen)
            steered = weighted(made, 1.0, pool=network.config.global_pool)
        picture = 1.5 if inputs_beside(config) == PICTURE else None
        show_loop(
            roots,
            latent,
            lambda: roots["unet"](x, t, context, steered, features),
            Scales(7.5, picture=picture, perturbed=3.0),
        )
        if getattr(config.vae, "encodes", True):
            roots["vae"].encode(image)
        roots["vae"].decode(latent.to(dtype))
        for name, part in parts_of(config).items():
            if part.dry_run is not None:
                part.dry_run(roots[name], config)

    return run


def show_loop(
    roots: Mapping[str, Any],
    x: Tensor,
    predict: Callable[[], Tensor],
    scales: Scales = Scales(7.5),  # noqa: B008 - it cannot change
) -> None:
    """The part of a dry run that all models share: one step, `x` the sample on the ``meta`` device."""
    roots["sampler"].noise(x)
    predicted = predict()
    roots["guidance"](torch.cat([predicted] * len(scales.branches)).float(), scales)
    roots["sampler"].step_noise(x)
    roots["sampler"].step(Step(0, 0.0, 0.5, x, x, x, x))


def describe_prompt(prompt: Prompt) -> dict[str, Any]:
    return {
        "text": prompt.text,
        "clip_skip": prompt.clip_skip,
        "syntax": prompt.syntax,
        "emphasis": prompt.emphasis,
        "token_ids": list(prompt.encoding.ids),
        "words": [[word.text, word.start, word.end, *word.positions] for word in prompt.words],
        **{key: getattr(prompt, key) for key in ("counted", "passed") if getattr(prompt, key)},
    }


def describe_run(
    networks: Mapping[str, nn.Module],
    source: str,
    rows: dict[str, list[Prompt]],
    noise: ImageNoise,
    canvas: Canvas | None,
    calls: int,
    settings: dict[str, Any],
    controls: Sequence[Control],
) -> Run:
    """A run's description for listeners: what is needed to repeat it."""
    facts = {
        "prompts": {branch: [describe_prompt(p) for p in rows[branch]] for branch in rows},
        "seeds": list(noise.seeds),
        "drawing": asdict(noise.drawing),
        "width": noise.width,
        "height": noise.height,
        **settings,
        "model": source,
        **describe_machine(networks),
    }
    h, w = noise.latent.shape[-2:]
    inputs = {"noise": noise.latent, **(canvas.inputs if canvas else {})}
    facts |= {"canvas": canvas.plain} if canvas else {}
    inputs |= {f"hint.{i}": hint_tensor(control.hint) for i, control in enumerate(controls)}
    facts |= {"control": [control.plain for control in controls]} if controls else {}
    for branch, prompts in rows.items():
        inputs |= {f"context.{branch}.{i}": p.context for i, p in enumerate(prompts) if p.by_hand}
    return Run((h, w), calls, len(noise), tuple(rows), rows, facts, inputs)


def describe_machine(networks: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Everything that the last bit of a picture depends on, beside the run's settings."""
    unet: Any = networks["unet"]
    weight = unet.conv_in.weight
    return {
        "weights": fingerprint(networks),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "device": weight.device.type,
        "channels_last": weight.is_contiguous(memory_format=torch.channels_last),
        "linear_by_convolution": chosen_kernels(networks),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "version": __version__,
    }


def chosen_kernels(networks: Mapping[str, nn.Module]) -> bool | str:
    """Whether linear layers run as convolutions; if some do, or convolutions run another way, ten hex digits
    of the choice."""
    chosen = [
        bool(layer.by_convolution)
        for network in networks.values()
        for layer in network.modules()
        if isinstance(layer, Linear)
    ]
    unet: Any = networks["unet"]
    convolutions = [
        (m.product_cells, m.tile_cells) for m in unet.modules() if isinstance(m, Conv2d)
    ]
    others = max(max(both) for both in convolutions)
    mixed = others or (any(chosen) and not all(chosen))
    text = bytes(chosen) + (repr(convolutions).encode() if others else b"")
    return hashlib.sha256(text).hexdigest()[:10] if mixed else any(chosen)


def fingerprint(networks: Mapping[str, nn.Module]) -> str:
    """Ten hex digits that tell weights apart, from a sample of every parameter in the computing type."""
    total = hashlib.sha256()
    for root, network in networks.items():
        dtype = computing_type(network)
        for name, parameter in network.state_dict().items():
            stride = max(parameter.numel() // FINGERPRINT_VALUES, 1)
            total.update(f"{root}.{name}{tuple(parameter.shape)}".encode())
            sample = parameter.reshape(-1)[::stride]
            total.update(_bytes(sample.to(dtype) if sample.is_floating_point() else sample))
    return total.hexdigest()[:10]


def digest(x: Tensor) -> str:
    """The sha256 of a tensor's numbers."""
    return hashlib.sha256(_bytes(x)).hexdigest()


def _bytes(x: Tensor) -> bytes:
    # As bytes before numpy, which has no bfloat16.
    return x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
