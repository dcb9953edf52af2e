"""A stored trace as a run that can be repeated."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from sd_scratch.diffusion.noise import Drawing
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.errors import ScratchError
from sd_scratch.pipeline.branches import COND, UNCOND
from sd_scratch.pipeline.canvas import Canvas
from sd_scratch.pipeline.control import Control
from sd_scratch.pipeline.image_noise import ImageNoise
from sd_scratch.pipeline.perturbed import LAYERS
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.run_tensors import describe_machine, digest
from sd_scratch.pipeline.text_to_image import TextToImage
from sd_scratch.tensors import ReadyEdit, Trace, edit_from_plain
from sd_scratch.tensors.names import renamed_globs

SAME_MACHINE = (
    *("device", "dtype", "channels_last", "linear_by_convolution", "threads", "torch"),
    "version",
)
DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
Arguments = ParamSpec("Arguments")
Read = TypeVar("Read")


def one_line(read: Callable[Arguments, Read]) -> Callable[Arguments, Read]:
    """For a method of `StoredRun`: a value of another type is an error of one line."""

    @wraps(read)
    def typed(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Read:
        try:
            return read(*args, **kwargs)
        except DAMAGE as error:
            run, reason = args[0], f"{type(error).__name__} {error}"[:100]
            raise ScratchError(
                f"{run.folder} is damaged: its {read.__name__} cannot be read ({reason})"  # type: ignore[attr-defined]
                " - record the trace again"
            ) from None

    return typed


StoredPrompt = tuple[dict[str, Any], list[int], Tensor | None, dict[str, Any]]
"""The arguments of `TextToImage.prompt`, its token ids, its vectors where they were set by hand, and how steps are
counted where it changes."""


@dataclass(frozen=True, eq=False)
class StoredRun:
    """The run of a trace. Every method raises ScratchError for a missing fact."""

    trace: Trace
    folder: str

    @classmethod
    def read(cls, folder: str | Path) -> "StoredRun":
        return cls(Trace.load(folder), str(folder))

    def fact(self, key: str) -> Any:
        if key not in self.trace.facts:
            raise ScratchError(f"{self.folder} says nothing about '{key}' - it holds no whole run")
        return self.trace.facts[key]

    @property
    @one_line
    def seeds(self) -> tuple[int, ...]:
        return tuple(int(seed) for seed in self.fact("seeds"))

    @property
    @one_line
    def drawing(self) -> dict[str, Any]:
        """How its seeds became noise; older traces say nothing, as there was one way."""
        return dict(self.trace.facts.get("drawing", {}))

    @property
    @one_line
    def noise(self) -> Tensor:
        if "noise" not in self.trace.inputs:
            raise ScratchError(f"{self.folder} has lost the noise that its run started from")
        noise = self.trace.inputs["noise"]
        if noise.ndim != 4 or not noise.is_floating_point():
            raise ValueError(f"noise of {tuple(noise.shape)}, {noise.dtype}")
        return noise

    @property
    @one_line
    def prompts(self) -> dict[str, list[StoredPrompt]]:
        return {
            branch: [
                (
                    {
                        "text": str(prompt["text"]),
                        "clip_skip": int(prompt["clip_skip"]),
                        "syntax": str(prompt.get("syntax", "plain")),  # before there was a choice
                        "emphasis": str(prompt.get("emphasis", "a1111")),
                    },
                    [int(token) for token in prompt["token_ids"]],
                    self.trace.inputs.get(f"context.{branch}.{i}"),
                    {key: int(prompt.get(key, 0)) for key in ("counted", "passed")},
                )
                for i, prompt in enumerate(prompts)
            ]
            for branch, prompts in self.fact("prompts").items()
        }

    @one_line
    def t(self, schedule: Schedule) -> float:
        """The timestep that the run began at; older traces began with pure noise and say nothing."""
        return float(self.trace.facts.get("t", len(schedule) - 1))

    @property
    @one_line
    def tiling(self) -> str:
        """The axes on which opposite edges fit."""
        return str(self.trace.facts.get("tiling", ""))

    @one_line
    def settings(self, schedule: Schedule) -> dict[str, Any]:
        """The arguments of `TextToImage.generate`."""
        chosen = {key: self.fact(key) for key in ("sampler", "steps", "guidance")}
        chosen["fast"] = str(self.trace.facts.get("fast", ""))
        for name in ("guidance_rescale", "pag", "pag_adaptive_scale"):
            chosen[name] = float(self.trace.facts.get(name, 0.0))
        chosen["pag_layers"] = str(self.trace.facts.get("pag_layers", LAYERS))
        chosen["control"] = [
            Control(self.trace.inputs[f"hint.{i}"], **plain)
            for i, plain in enumerate(self.trace.facts.get("control", []))
        ]
        options, spacing = dict(self.fact("sampler_options")), self.trace.facts.get("schedule")
        spacing = options.pop("sigmas", spacing)  # as older traces have it
        if isinstance(spacing, dict):
            spacing = schedule.ladder_from_plain(spacing)
        return {**chosen, "schedule": spacing, **options}

    @one_line
    def canvas(self, noise: ImageNoise) -> Canvas | None:
        """The picture that the run painted on; `noise` is its start."""
        plain = self.trace.facts.get("canvas")
        if plain is None:
            return None
        inputs = self.trace.inputs
        picture = noise.with_latent(inputs["canvas.picture"].to(noise.latent), t=0)
        return Canvas(picture, inputs.get("canvas.cells"), inputs.get("canvas.told"), **plain)

    @one_line
    def edits(self) -> list[tuple[list[str], ReadyEdit, dict[str, Any]]]:
        """Globs, edit, and where it acts."""
        found = []
        for plain in self.trace.edits:
            if plain["function"] is None:
                raise ScratchError(
                    f"{self.folder} was edited by a Python function at {', '.join(plain['globs'])},"
                    " which a folder cannot hold - use the ready-made edits"
                )
            calls = plain["steps"]
            where = {
                "calls": slice(*calls["slice"]) if isinstance(calls, dict) else calls,
                "branch": plain["branch"],
            }
            ready = edit_from_plain(plain["function"], self.trace.inputs)
            found.append((renamed_globs(plain["globs"]), ready, where))
        return found

    @one_line
    def check(self, machine: dict[str, Any]) -> None:
        """Refuse weights and precisions that are not those of the trace."""
        for key, what in (("weights", "weights"), ("dtype", "precision")):
            if self.fact(key) != machine[key]:
                raise ScratchError(
                    f"{self.folder} was recorded with {what} {self.fact(key)} of {self.fact('model')},"
                    f" and this model has {machine[key]} - load the same model"
                )

    @one_line
    def compare(self, latent: str, machine: dict[str, Any]) -> None:
        """Refuse another picture than the stored one, on the same machine."""
        same = all(self.fact(key) == machine[key] for key in SAME_MACHINE)
        if same and latent != self.fact("latent"):
            raise ScratchError(
                f"{self.folder} was replayed and the picture is another one - its files were changed"
            )


def replay(model: TextToImage, folder: str | Path) -> ImageNoise:
    """Repeat the picture of a stored trace, its edits included: bit for bit on one machine.

    Raises ScratchError for a damaged folder, for a trace of other weights or with edits that are Python
    functions, and for another picture on the same machine.
    """
    stored = StoredRun.read(folder)
    model = model.with_tiling(stored.tiling)
    machine = describe_machine(model.networks)
    stored.check(machine)
    rows = {
        branch: [_prompt(model, prompt) for prompt in prompts]
        for branch, prompts in stored.prompts.items()
    }
    latent, t = stored.noise.to(model.device), stored.t(model.schedule)
    drawing = Drawing(**stored.drawing)
    noise = ImageNoise(latent, t, stored.seeds, model.vae, model.schedule, drawing)
    negative = rows.get(UNCOND, [""])[0]
    with ExitStack() as stack:
        for globs, function, where in stored.edits():
            stack.enter_context(model.edit(globs, function, **where))
        image = model.generate(
            rows.get(COND, rows.get(UNCOND, [])),
            noise,
            negative=negative,
            canvas=stored.canvas(noise),
            **stored.settings(model.schedule),
        )
    stored.compare(digest(image.latent), machine)
    return image


def _prompt(model: TextToImage, stored: StoredPrompt) -> Prompt:
    settings, token_ids, context, counted = stored
    prompt = model.prompt(**settings)
    if prompt.changes:  # the stored tokens are those of the first step
        return replace(prompt, **counted)
    prompt = prompt.padded(len(token_ids) // model.tokenizer.max_length)
    if list(prompt.encoding.ids) != token_ids:
        raise ScratchError(
            f"'{prompt.text}' has other tokens here than in the trace - the tokenizer or its way of"
            " cleaning text is another one"
        )
    return prompt if context is None else prompt.with_context(context.to(prompt.context))
