"""`run`: a recipe to pictures, for the command line, the page and your own scripts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from torch import Tensor

from sd_scratch.checkpoints.adapters.apply import AppliedLora
from sd_scratch.checkpoints.adapters.control import LoadedControl
from sd_scratch.diffusion.samplers import Step
from sd_scratch.errors import UsageError, log
from sd_scratch.limits import STRENGTH_STEPS, whole
from sd_scratch.pictures.hints import canny, low_high
from sd_scratch.pictures.masks import Mask
from sd_scratch.pipeline.adapters import ControlUse, EmbeddingUse, LoraUse
from sd_scratch.pipeline.begin import Beginning, begin_with, fitted
from sd_scratch.pipeline.canvas import Canvas
from sd_scratch.pipeline.complete import TWO_STARTS, check_recipe, complete, with_seed
from sd_scratch.pipeline.control import Control
from sd_scratch.pipeline.idle import idle_settings
from sd_scratch.pipeline.image_noise import ImageNoise
from sd_scratch.pipeline.part_way import UPSCALED, enlarged, larger, part_of
from sd_scratch.pipeline.perturbed import LAYERS
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.text_to_image import TextToImage
from sd_scratch.stop import Stop

OnStep = Callable[[Step], object]
"""Called with every finished step."""
Ends = Callable[[Step], bool]
"""The same, and returns whether the run is to end there."""
TEXTS = ("prompt", "negative")


@dataclass(frozen=True)
class Made:
    """The finished pictures of one batch: their latents at t = 0, and what made each."""

    latents: ImageNoise
    recipes: tuple[Recipe, ...]
    canvas: Canvas | None = None

    def to_pil(self) -> list[Image.Image]:
        """The pictures as 8-bit RGB, in the order of `recipes`; the kept part of a picture is its own."""
        pictures = self.latents.to_pil()
        return pictures if self.canvas is None else self.canvas.finished(pictures)


def run(
    model: TextToImage,
    recipe: Recipe | str,
    *,
    count: int = 1,
    batch_size: int = 1,
    init_image: Beginning | None = None,
    mask: Image.Image | Mask | None = None,
    init_noise: Tensor | None = None,
    hints: Sequence[Image.Image] = (),
    prompt: Prompt | None = None,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Made]:
    """The pictures of a recipe, a batch at a time.

    Args:
        recipe: what makes the picture, or just its prompt. None is the model's default; returned recipes have
            every setting.
        count: how many pictures. Number i has the recipe's seed + i; a variation has its seed, and subseed
            + i.
        batch_size: how many at a time.
        init_image: the start picture of a recipe with a `strength`, resized to the recipe's size; or the
            result of `begin_with`.
        mask: where that picture is repainted (white, True), resized likewise; the recipe's `mask` says how.
        init_noise: the start noise of every picture, ``[1, 4, h, w]``, such as from
            `sd_scratch.mapping.inversion.invert`, instead of the seed's.
        hints: one picture for each of the model's ControlNets.
        prompt: instead of the recipe's own, such as one between several.
        on_step: called with every step.
        stop: ends the run early, without the current batch. Leaving the loop over the batches does the same
            between them.
        share: (number, processes): this process makes every `processes`-th batch, from `number` on, and the
            others the rest. The pictures are those of one process.

    Raises:
        UsageError: a recipe that this model cannot follow: missing adapters, a missing picture, values out of
            range.
    """
    for name, value in (("count", count), ("batch_size", batch_size)):
        if (whole(value) or 0) < 1:
            raise UsageError(f"{name} {value!r} - give a whole number from 1")
    if not 0 <= share[0] < share[1]:
        raise UsageError(f"share {share!r} - give a number from 0, and of how many")
    recipe = Recipe(recipe) if isinstance(recipe, str) else recipe
    if not isinstance(recipe, Recipe):
        raise UsageError(f"recipe: give a Recipe or a prompt, not {type(recipe).__name__}")
    recipe = check_recipe(recipe)
    recipe = _as_the_model_is(model, recipe)
    model = model.with_tiling(recipe.tiling or "")
    begun, recipe = begin_with(model, recipe, init_image, mask)
    _check_beginning(recipe, init_noise, begun is not None)
    model = model.with_text_cleaning(recipe.text_cleaning or model.tokenizer.text_cleaning)
    recipe = recipe.over(text_cleaning=model.tokenizer.text_cleaning)
    recipe = with_seed(complete(recipe, model.config, dtype=model.dtype_name), count)
    way = model.way(recipe.sampler, recipe.steps, recipe.schedule, recipe.sampler_options)
    for line in idle_settings(recipe, way):
        log.warning(line)
    settings = settings_of(model, recipe, hints, prompt)
    # What changes in a prompt is counted of all steps that were asked for.
    if len(way.ladder) < (recipe.steps or 0):
        settings |= {name: replace(settings[name], counted=recipe.steps) for name in TEXTS}
    settings["canvas"] = canvas = begun if isinstance(begun, Canvas) else None
    first, varied = recipe.seed or 0, bool(recipe.subseed_strength)
    number, processes = share

    def ends(step: Step) -> bool:
        if on_step is not None:
            on_step(step)
        return stop is not None and stop.asked

    for start in range(number * batch_size, count, processes * batch_size):
        numbers = range(start, min(start + batch_size, count))
        seeds = [first if varied else first + i for i in numbers]
        noise = model.noise(seeds, recipe.width, recipe.height, recipe.drawing(start))
        if init_noise is not None:
            noise = noise.with_latent(_fitting(init_noise, noise.latent))
        made: ImageNoise | None
        if begun is None:
            made = _walk(model, noise, settings, len(way.ladder), ends)
        else:
            made = _remake(model, begun, noise, recipe, settings, ends)
        if made is not None and recipe.hires_scale is not None:
            made = _enlarge(model, made, recipe, settings, hints, ends)
        if made is None:
            return
        subseeds = [(recipe.subseed or 0) + i if varied else None for i in numbers]
        each = zip(seeds, subseeds, strict=True)
        recipes = tuple(recipe.over(seed=seed, subseed=subseed) for seed, subseed in each)
        yield Made(made, recipes, canvas)
        if stop is not None and stop.asked:
            return


def _check_beginning(recipe: Recipe, noise: Tensor | None, pictured: bool) -> None:
    if noise is not None and pictured:
        raise UsageError("a run begins with a picture or with noise of a file, not with both")
    if recipe.hires_scale is not None and pictured:
        raise UsageError(TWO_STARTS)
    if noise is None and recipe.init_noise is not None:
        raise UsageError(
            f"the recipe begins with the noise of {recipe.init_noise} - give it as init_noise"
        )


def _fitting(noise: Tensor, latent: Tensor) -> Tensor:
    if noise.shape[1:] != latent.shape[1:] or len(noise) != 1:
        raise UsageError(
            f"the noise to begin with is {' x '.join(map(str, noise.shape))}, and this run's is"
            f" 1 x {' x '.join(map(str, latent.shape[1:]))} - take the size and the model that it was made with"
        )
    return noise.to(latent).expand_as(latent)


def _walk(
    model: TextToImage, noise: ImageNoise, settings: dict[str, Any], steps: int, ends: Ends
) -> ImageNoise | None:
    """All steps of one pass; None if it was stopped before its end."""
    latent = noise.latent
    for step in model.steps(noise=noise, **settings):
        latent = step.x_next
        if ends(step) and step.index + 1 < steps:
            return None
    return noise.with_latent(latent, t=0)


def _remake(
    model: TextToImage,
    begun: ImageNoise | Canvas,
    pure: ImageNoise,
    recipe: Recipe,
    settings: dict[str, Any],
    ends: Ends,
) -> ImageNoise | None:
    """A finished picture run again at the recipe's strength, with the seeds of `pure` noise."""
    canvas = begun if isinstance(begun, Canvas) else None
    latent = (begun.picture if isinstance(begun, Canvas) else begun).latent
    picture = pure.with_latent(latent.expand_as(pure.latent), t=0)
    if not recipe.strength:
        return picture
    counted = recipe.strength_steps or STRENGTH_STEPS[0]
    way = {name: settings[name] for name in ("sampler", "steps", "schedule")}
    noise = model.begin(picture, recipe.strength, counted=counted, **way)
    if canvas is not None:
        noise = canvas.under(noise, pure, recipe.strength)
    part = part_of(recipe.steps or 0, recipe.strength, counted)
    # Where what changes in a prompt is counted of all steps, from the first taken.
    if counted == "a1111":
        texts = {name: replace(settings[name], counted=part.levels) for name in TEXTS}
        settings = {**settings, **texts}
    return _walk(model, noise, {**settings, "steps": part.levels}, _taken(model, recipe), ends)


def _enlarge(
    model: TextToImage,
    made: ImageNoise,
    recipe: Recipe,
    settings: dict[str, Any],
    hints: Sequence[Image.Image],
    ends: Ends,
) -> ImageNoise | None:
    """The second pass: the pictures enlarged, and run again at the recipe's strength."""
    passed, recipe = recipe.steps or 0, second_pass(model, recipe)
    scale, method = recipe.hires_scale or 1.0, recipe.hires_method or UPSCALED
    grown = enlarged(made, scale, method, model.tiling)
    if not isinstance(grown, ImageNoise):
        grown = made.with_latent(model.encode(grown).latent, t=0)
    own: dict[str, Any] = {"steps": recipe.steps}
    for name in TEXTS:
        own[name] = replace(settings[name], passed=passed)
    if recipe.controls or hints:
        own["control"] = _controls(recipe, hints)
    return _remake(model, grown, grown, recipe, {**settings, **own}, ends)


def second_pass(model: TextToImage, recipe: Recipe) -> Recipe:
    """A complete recipe's second pass as a recipe that starts from a picture. It takes all of its steps, also
    in A1111."""
    cell, scale = model.config.vae.downscale, recipe.hires_scale or 1.0
    width, height = (larger(side or cell, scale, cell) for side in (recipe.width, recipe.height))
    counted = {"a1111": "comfy"}.get(recipe.strength_steps or "", recipe.strength_steps)
    return replace(
        recipe,
        width=width,
        height=height,
        steps=recipe.hires_steps,
        strength=recipe.hires_strength,
        strength_steps=counted,
    )


def settings_of(
    model: TextToImage,
    recipe: Recipe,
    hints: Sequence[Image.Image] = (),
    prompt: Prompt | None = None,
) -> dict[str, Any]:
    """A complete recipe as the arguments of `TextToImage.steps`, except the noise. Notes on the prompts are
    logged. A `prompt` replaces the recipe's."""
    prompts = [] if prompt is None else [prompt]
    texts = (("prompt", recipe.prompt), ("negative prompt", recipe.negative_prompt))
    for name, text in texts[len(prompts) :]:
        prompts.append(model.prompt(text, **recipe.reading))
        for note in prompts[-1].encoding.notes:
            log.warning(f"{name}: {note}")
    settings: dict[str, Any] = {
        "prompt": prompts[0],
        "negative": prompts[1],
        "sampler": recipe.sampler,
        "steps": recipe.steps,
        "schedule": recipe.schedule,
        "guidance": recipe.guidance,
        "guidance_rescale": recipe.guidance_rescale or 0.0,
        "pag": recipe.pag or 0.0,
        "pag_layers": recipe.pag_layers or LAYERS,
        "pag_adaptive_scale": recipe.pag_adaptive_scale or 0.0,
        "fast": recipe.fast or "",
        **recipe.sampler_options,
    }
    if recipe.controls or hints:
        settings["control"] = _controls(recipe, hints)
    return settings


def count_steps(model: TextToImage, recipe: Recipe) -> int:
    """The number of steps of each batch of a complete recipe."""
    return sum(steps for steps, _ in _passes(model, recipe))


def count_work(model: TextToImage, recipe: Recipe) -> int:
    """The work of all steps of one picture, in cells of latents."""
    return sum(steps * cells for steps, cells in _passes(model, recipe))


def _passes(model: TextToImage, recipe: Recipe) -> Iterator[tuple[int, int]]:
    """The steps of each pass, and the cells of its latents."""
    cell = model.config.vae.downscale
    width, height = (side or model.config.sample_size for side in (recipe.width, recipe.height))
    yield _taken(model, recipe), (width // cell) * (height // cell)
    if recipe.hires_scale is not None:
        yield from _passes(model, replace(second_pass(model, recipe), hires_scale=None))


def _taken(model: TextToImage, recipe: Recipe) -> int:
    """The number of levels that the first pass takes."""
    if recipe.strength == 0.0:
        return 0
    counted = recipe.strength_steps or STRENGTH_STEPS[0]
    part = part_of(recipe.steps or 1, recipe.strength or 1.0, counted)
    return len(part.of(model.way(recipe.sampler, part.levels, recipe.schedule).ladder))


def _controls(recipe: Recipe, hints: Sequence[Image.Image]) -> list[Control]:
    uses = recipe.controls or ()
    if len(hints) != len(uses):
        raise UsageError(f"{len(uses)} ControlNets and {len(hints)} hints - give one for each")
    controls = []
    for hint, use in zip(hints, uses, strict=True):
        picture = fitted(hint, recipe, f"the hint of {use.name}")
        picture = canny(picture, *low_high(use.canny)) if use.canny else picture
        controls.append(Control(picture, use.strength, use.start, use.end, use.guess))
    return controls


def _as_the_model_is(model: TextToImage, recipe: Recipe) -> Recipe:
    """The recipe with the model's name, precision and adapters. Raises UsageError if the recipe has other
    ones."""
    if recipe.dtype is not None and recipe.dtype != model.dtype_name:
        raise UsageError(
            f"the recipe computes in {recipe.dtype} and the model in {model.dtype_name} - load the model"
            " with that dtype, or leave it out of the recipe"
        )
    schedule = model.config.schedule
    if recipe.prediction not in (None, schedule.prediction_type):
        raise UsageError(
            f"the recipe's network predicts {recipe.prediction} and the model's"
            f" {schedule.prediction_type} - load the model with that prediction"
        )
    if recipe.zero_snr and not schedule.rescale_betas_zero_snr:
        raise UsageError(
            "the recipe's schedule ends in pure noise and the model's does not - load it with zero terminal SNR"
        )
    if recipe.model_hash is not None and recipe.model_hash != model.components.hash:
        log.warning(
            f"the picture was made by a model with hash {recipe.model_hash}, and this one has"
            f" {model.components.hash or 'none'}: it will differ"
        )
    for kind, uses in uses_of(model).items():
        asked = getattr(recipe, kind)
        if asked is None:
            recipe = recipe.over(**{kind: uses or None})
        # A file of several words is one use of a recipe and several of the model.
        elif len(asked) > len(uses) or (kind != "embeddings" and _names(asked) != _names(uses)):
            raise UsageError(
                f"the recipe's {kind} are {', '.join(_names(asked))[:200] or 'none'}, and the model's are"
                f" {', '.join(_names(uses))[:200] or 'none'} - give the model the same, with with_lora,"
                " with_embedding or with_control"
            )
    return recipe


def uses_of(model: TextToImage) -> dict[str, tuple[Any, ...]]:
    """A model's adapters as a recipe has them."""
    loras, embeddings, controls = [], [], []
    for adapter in model.adapters:
        if isinstance(adapter, AppliedLora):
            lora = adapter.lora
            loras.append(LoraUse(lora.name, adapter.scale, adapter.text_scale, lora.hash))
        elif isinstance(adapter, LoadedControl):
            controls.append(ControlUse(adapter.name, hash=adapter.hash))
        else:
            embeddings.append(EmbeddingUse(adapter.name, hash=adapter.hash))
    return {"loras": tuple(loras), "embeddings": tuple(embeddings), "controls": tuple(controls)}


def _names(uses: Sequence[Any]) -> list[str]:
    return [use.name for use in uses]
