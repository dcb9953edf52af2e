"""A wish to a picture: what the page's runs are made of, without threads and sockets."""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sd_scratch.diffusion.samplers import Step
from sd_scratch.errors import UsageError, log
from sd_scratch.limits import STRENGTH_STEPS
from sd_scratch.mapping.movement import Plane, make_plane
from sd_scratch.page.loras import Wardrobe
from sd_scratch.page.messages import Place, RunWish
from sd_scratch.page.pictures import Start
from sd_scratch.pictures.pixels import to_bytes
from sd_scratch.pipeline.adapters import LoraUse
from sd_scratch.pipeline.coding import decode
from sd_scratch.pipeline.complete import advise, check_recipe, complete, with_seed
from sd_scratch.pipeline.part_way import part_of
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.run import uses_of
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.tensors import Address, Trace
from sd_scratch.tensors.reductions import Pick
from sd_scratch.text.chunks import encode_prompt
from sd_scratch.text.encoding import Encoding

RECORD_LIMIT = 128_000_000  # bytes of the recordings that one session keeps
PLANES_LIMIT = 8  # that one engine keeps
CHEAP_CELLS = 1024  # of a latent that a processor decodes at every step


@dataclass(frozen=True, eq=False)
class Result:
    """A finished run.

    Attributes:
        recipe: leaves nothing open.
        pixels: ``[3, H, W]`` uint8.
        moments: timestep and sigma of each of the sampler's steps.
        calls: how often the U-Net was called, which is how many steps a tensor has.
        start: the picture that it began with, if it did.
        texts: by branch.
        notes: what was warned of on the way.
        traces: recorded tensors, by name and, for one row of a self-attention, its place.
    """

    wish: RunWish
    recipe: Recipe
    latent: Tensor = field(repr=False)
    pixels: Tensor = field(repr=False)
    moments: tuple[tuple[float, float], ...]
    calls: int
    texts: dict[str, Encoding] = field(repr=False)
    start: Start | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    traces: dict[tuple[str, int | None], Trace] = field(default_factory=dict, repr=False)

    @property
    def digest(self) -> str:
        """The sha256 of the picture's numbers, row by row, three a pixel."""
        return hashlib.sha256(pixel_bytes(self.pixels)).hexdigest()


def pixel_bytes(pixels: Tensor) -> bytes:
    """``[3, H, W]`` to red, green and blue of every pixel, row by row."""
    data: bytes = pixels.permute(1, 2, 0).contiguous().cpu().numpy().tobytes()
    return data


class Studio:
    """One model, and what is remembered from run to run.

    Args:
        loras: files that a recipe may name.
    """

    def __init__(self, model: StableDiffusion, loras: Mapping[str, Path] | None = None) -> None:
        self.model = model
        self.wardrobe = Wardrobe(model, loras or {})
        self._planes: dict[tuple[Any, ...], Plane] = {}
        self._fit: Tensor | None = None

    def completed(self, recipe: Recipe) -> tuple[StableDiffusion, Recipe]:
        """The model with a recipe's LoRAs, and the recipe with everything that it leaves open. Raises
        UsageError as `model.run` does."""
        model = self.wardrobe.dress(recipe.loras)
        recipe = replace(recipe, loras=uses_of(model)["loras"] or None)
        recipe = check_recipe(recipe).over(text_cleaning=model.tokenizer.text_cleaning)
        return model, with_seed(complete(recipe, model.config, dtype=model.dtype_name), 1)

    def plane(self, prompts: tuple[str, ...], loras: tuple[LoraUse, ...] | None = None) -> Plane:
        """The plane of some prompts, or the line of two, as a model with these LoRAs reads them."""
        model = self.wardrobe.dress(loras)
        key = prompts, uses_of(model)["loras"]
        if key not in self._planes:
            while len(self._planes) >= PLANES_LIMIT:
                del self._planes[next(iter(self._planes))]
            count = min(len(prompts) - 1, 2)
            self._planes[key] = make_plane([model.prompt(p) for p in prompts], count)
        return self._planes[key]

    def at(self, place: Place, loras: tuple[LoraUse, ...] | None = None) -> Prompt:
        plane = self.plane(place.prompts, loras)
        return plane.at(plane.places.new_tensor(place.at))

    def make(
        self,
        wish: RunWish,
        start: Start | None = None,
        on_step: Callable[[Step], object] | None = None,
        record: tuple[str, ...] = (),
        **options: Any,
    ) -> tuple[Result, Trace | None]:
        """Run a wish, with these tensors recorded. Raises ScratchError for what cannot be done."""
        moments: list[tuple[float, float]] = []

        def told(step: Step) -> None:
            moments.append((step.t, step.sigma))
            if on_step is not None:
                on_step(step)

        with ExitStack() as stack:
            notes = stack.enter_context(warnings_heard())
            model, recipe, given = self._prepared(wish, start, stack)
            trace = None
            if record:
                recorder = model.record(*record, to="cpu", budget=RECORD_LIMIT, **options)
                trace = stack.enter_context(recorder)
            (made,) = model.run(recipe, on_step=told, **given)
            pixels = torch.from_numpy(np.array(made.to_pil()[0])).permute(2, 0, 1)
        (recipe,) = made.recipes
        texts = {
            "cond": given["prompt"].encoding
            if given["prompt"]
            else encode_prompt(model.tokenizer, recipe.prompt),
            "uncond": encode_prompt(model.tokenizer, recipe.negative_prompt),
        }
        latent, calls = made.latents.latent, calls_of(model, recipe)
        self._learn(latent, pixels)
        result = Result(
            wish, recipe, latent, pixels, tuple(moments), calls, texts, start, tuple(notes)
        )
        return result, trace

    def several(self, wish: RunWish, start: Start | None, count: int) -> Tensor:
        """A wish with its seed and the next ones, in one batch: ``[count, 3, H, W]`` uint8."""
        with ExitStack() as stack:
            model, recipe, given = self._prepared(wish, start, stack)
            (made,) = model.run(recipe, count=count, batch_size=count, **given)
            return torch.from_numpy(np.stack([np.array(one) for one in made.to_pil()])).permute(
                0, 3, 1, 2
            )

    def _prepared(
        self, wish: RunWish, start: Start | None, stack: ExitStack
    ) -> tuple[StableDiffusion, Recipe, dict[str, Any]]:
        """A wish's model with its edits, until the stack ends, and what `run` is given beside the recipe."""
        model, recipe = self.completed(wish.recipe)
        if not wish.live:
            advise(recipe, model.config)
        given: dict[str, Any] = {
            "prompt": None if wish.place is None else self.at(wish.place, recipe.loras)
        }
        if start is not None:
            given.update(init_image=start.picture, mask=start.mask)
        for edit in wish.edits:
            at = None if edit.steps is None else slice(edit.steps[0], edit.steps[1] + 1)
            editor = model.edit(edit.tensors, edit.edit, calls=at, branch=edit.branch)
            stack.enter_context(editor)
        return model, recipe, given

    def tensor(self, result: Result, name: str, step: int, place: int | None) -> Trace:
        """A recording that holds a tensor at a step: one that is there, or the run is made again with it.

        All steps are kept where they find room, else this one; of a self-attention that finds none, the
        row of one query.
        """
        infos = self.model.tensors(name, width=result.recipe.width, height=result.recipe.height)
        if len(infos) != 1:
            raise UsageError(f"'{name}' is not one tensor - name one")
        info, key = infos[0], (name, None)
        if info.stepwise and step >= result.calls:
            raise UsageError(f"there is no step {step}, the run has {result.calls} calls")
        options: dict[str, Any] = {}
        each = info.bytes * (2 if info.branched else 1)
        if each > RECORD_LIMIT // 8 and {"query", "key"} <= set(info.axes):
            query = (place or 0) % info.shape[info.axes.index("query")]
            key = (name, query)  # type: ignore[assignment]
            options["reduce"] = Pick("query", (query,))
            each //= info.shape[info.axes.index("query")]
        elif info.stepwise and each * result.calls > RECORD_LIMIT:
            options["steps"] = step
        found = result.traces.get(key)
        if found is None or not held(found, name, step):
            found = self.make(result.wish, result.start, record=(name,), **options)[1]
            assert found is not None  # something was recorded
            keep(result.traces, key, found)
        return found

    # Previews -------------------------------------------------------------------------------

    def preview(self, x0: Tensor) -> tuple[Tensor, bool]:
        """What a clean latent ``[1, C, h, w]`` looks like, ``[3, H, W]`` uint8, and whether that is coarse:
        a colour for each cell, where decoding would take longer than the step."""
        if x0.device.type != "cpu" or x0.shape[-1] * x0.shape[-2] <= CHEAP_CELLS:
            return to_bytes(decode(self.model.vae, x0)[0] * 0.5 + 0.5).cpu(), False
        cells = x0[0].flatten(1).T  # [cells, C]
        if self._fit is None:
            grey = cells.mean(dim=1)
            low, high = grey.min(), grey.max()
            colours = ((grey - low) / (high - low + 1e-6))[:, None].expand(-1, 3)
        else:
            colours = torch.cat([cells, cells.new_ones(len(cells), 1)], dim=1) @ self._fit
        return to_bytes(colours.T.reshape(3, *x0.shape[-2:])), True

    def _learn(self, latent: Tensor, pixels: Tensor) -> None:
        """From a finished picture: which colour a cell's numbers mean, by least squares."""
        if latent.device.type != "cpu" or latent.shape[-1] * latent.shape[-2] <= CHEAP_CELLS:
            return
        cells = latent[0].flatten(1).T
        ones = cells.new_ones(len(cells), 1)
        h, w = latent.shape[-2:]
        small = torch.nn.functional.adaptive_avg_pool2d(pixels[None] / 255, (h, w))[0]
        self._fit = torch.linalg.lstsq(torch.cat([cells, ones], dim=1), small.flatten(1).T).solution


def held(trace: Trace, name: str, call: int) -> list[Address]:
    """Where a recording has a tensor at a call, or once for a whole run."""
    found = [address for address in trace.values if address.name == name]
    return [a for a in found if a.call == call] or [a for a in found if a.call is None]


def keep(
    traces: dict[tuple[str, int | None], Trace], key: tuple[str, int | None], trace: Trace
) -> None:
    """Add a recording, and let go of the oldest ones where they are too many."""
    traces.pop(key, None)
    while traces and sum(t.bytes for t in traces.values()) + trace.bytes > RECORD_LIMIT:
        del traces[next(iter(traces))]
    traces[key] = trace


def calls_of(model: StableDiffusion, recipe: Recipe) -> int:
    """How often a complete recipe's run calls the U-Net."""
    part = part_of(
        recipe.steps or 1, recipe.strength or 1.0, recipe.strength_steps or STRENGTH_STEPS[0]
    )
    way = model.way(recipe.sampler, part.levels, recipe.schedule, recipe.sampler_options)
    return replace(way, ladder=part.of(way.ladder)).calls


@contextmanager
def warnings_heard() -> Iterator[list[str]]:
    """The lines that this thread's work logs as warnings: what a terminal would show is for the page too."""
    lines: list[str] = []
    worker = threading.get_ident()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == worker and record.getMessage() not in lines:
                lines.append(record.getMessage())

    ear = Ear(logging.WARNING)
    log.addHandler(ear)
    try:
        yield lines
    finally:
        log.removeHandler(ear)
