"""Complete a recipe with the model's own defaults."""

from collections.abc import Mapping
from dataclasses import replace

from sd_scratch.config import ModelConfig
from sd_scratch.diffusion.noise import random_seed
from sd_scratch.diffusion.sampler_names import find_sampler, find_schedule
from sd_scratch.diffusion.samplers import get_sampler
from sd_scratch.diffusion.spacing import find_spacing
from sd_scratch.errors import UsageError, log
from sd_scratch.limits import DTYPES, RNGS, SEED
from sd_scratch.pipeline.checks import MASK, PICTURE, check_own_sampler, inputs_beside
from sd_scratch.pipeline.emphasis import EMPHASES
from sd_scratch.pipeline.fast import read_fast, show_fast
from sd_scratch.pipeline.mask_use import BLENDS, CONTENTS, IMAGE_GUIDANCE
from sd_scratch.pipeline.part_way import HIRES_STRENGTH, UPSCALED
from sd_scratch.pipeline.perturbed import LAYERS
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.settings import SETTINGS
from sd_scratch.text.chunks import check_prompt
from sd_scratch.text.cleaning import STYLES
from sd_scratch.text.syntax import AND, SYNTAXES

ENOUGH = 15  # steps, for a guidance far above the model's own: see docs/scenes.md

SD_SIDES = (256, 1024)  # outside of these SD 1.x repeats itself or falls apart
TWO_STARTS = (
    "a run that begins with a picture and has a second pass - enlarge the picture alone: begin with it at"
    " the larger size"
)
BEGUN = 0.75  # strength of a run that begins with a picture


def check_recipe(recipe: Recipe) -> Recipe:
    """The recipe with other tools' names of a sampler and a schedule read as ours. Raises UsageError for
    settings that no model can have."""
    given = {name: row.checked(name, getattr(recipe, name)) for name, row in SETTINGS.items()}
    recipe = replace(recipe, **{**given, "negative_prompt": recipe.negative_prompt or ""})
    if recipe.sampler is not None:
        sampler, spacing = find_sampler(recipe.sampler)
        get_sampler(sampler)
        recipe = replace(recipe, sampler=sampler, schedule=recipe.schedule or spacing)
    if recipe.schedule is not None:
        recipe = replace(recipe, schedule=str(find_spacing(find_schedule(recipe.schedule))))
    syntax = recipe.syntax or SYNTAXES[0]
    check_prompt(recipe.prompt, syntax)
    if syntax == "a1111" and AND.search(recipe.negative_prompt):
        log.warning("negative prompt: AND is the word 'and' in it, as in A1111")
        recipe = replace(recipe, negative_prompt=AND.sub("and", recipe.negative_prompt))
    try:
        check_prompt(recipe.negative_prompt, syntax)
    except UsageError as error:
        raise UsageError(f"negative prompt: {error}") from None
    if recipe.fast is not None:
        recipe = replace(recipe, fast=show_fast(read_fast(recipe.fast)) or None)
    _check_hires(recipe)
    return recipe


def complete(
    recipe: Recipe,
    config: ModelConfig,
    options: Mapping[str, str] | None = None,
    dtype: str = DTYPES[0],
) -> Recipe:
    """Fill settings that are None with the model's own defaults, all except the seed.

    `options` are the sampler's, still as text; they go over the recipe's. Raises ScratchError if the model's
    own sampler is not supported.
    """
    check_own_sampler(recipe.sampler, config)
    defaults = Recipe(
        prompt="",
        sampler=config.sampler,
        guidance=config.guidance,
        width=config.sample_size,
        height=config.sample_size,
        clip_skip=1,
        text_cleaning=STYLES[0],
        syntax=SYNTAXES[0],
        emphasis=EMPHASES[0],
        rng=RNGS[0],
        dtype=dtype,
    )
    recipe = defaults.over(**recipe.known)
    sampler = get_sampler(recipe.sampler or config.sampler)
    if recipe.steps is None:
        recipe = replace(recipe, steps=config.steps_with(sampler.name, bool(recipe.fast)))
    own = config.sampler_options if sampler.name == config.sampler else {}
    if recipe.schedule is None and sampler.name == config.sampler:
        recipe = replace(recipe, schedule=config.spacing)
    chosen = {**own, **recipe.sampler_options, **(options or {})}
    typed = {name: sampler.option(name, value) for name, value in chosen.items()}
    recipe = with_picture(replace(recipe, sampler_options=typed), config)
    if recipe.pag:
        recipe = replace(recipe, pag_layers=recipe.pag_layers or LAYERS)
    return _with_hires(recipe)


def _check_hires(recipe: Recipe) -> None:
    """Raises UsageError for an impossible second pass."""
    if recipe.hires_scale is None:
        for name in ("hires_method", "hires_strength", "hires_steps"):
            if getattr(recipe, name) is not None:
                raise UsageError(f"{name} without hires_scale - say how much larger it gets")
        return
    if recipe.strength is not None or recipe.init_image is not None:
        raise UsageError(TWO_STARTS)


def _with_hires(recipe: Recipe) -> Recipe:
    """The recipe with all of its second pass, if it has one."""
    if recipe.hires_scale is None:
        return recipe
    return replace(
        recipe,
        hires_method=recipe.hires_method or UPSCALED,
        hires_strength=HIRES_STRENGTH if recipe.hires_strength is None else recipe.hires_strength,
        hires_steps=recipe.hires_steps or recipe.steps,
    )


def with_picture(recipe: Recipe, config: ModelConfig, *, begun: bool = False) -> Recipe:
    """The recipe with defaults for its start picture, which it names or which is `begun`, and for its mask."""
    kind, use = inputs_beside(config), recipe.mask
    if recipe.image_guidance is not None and kind != PICTURE:
        raise UsageError(f"a picture's own guidance is for {PICTURE}, and {config.name} is none")
    if kind == PICTURE:
        chosen = IMAGE_GUIDANCE if recipe.image_guidance is None else recipe.image_guidance
        recipe = recipe.over(image_guidance=chosen)
    if recipe.strength is None and (begun or recipe.init_image is not None):
        recipe = recipe.over(strength=1.0 if use or kind else BEGUN)
    if use is None:
        return recipe
    content = "noise" if kind == MASK else "fill" if any(use.extend) else CONTENTS[0]
    blend = "none" if kind == MASK else BLENDS[0]
    use = use._replace(content=use.content or content, blend=use.blend or blend)
    return recipe.over(mask=use)


def advise(recipe: Recipe, config: ModelConfig) -> None:
    """Warn about settings that give bad pictures."""
    sides = [side for side in (recipe.width, recipe.height) if side is not None]
    if config.sample_size >= 512 and (min(sides) < SD_SIDES[0] or max(sides) > SD_SIDES[1]):
        log.warning(
            f"{recipe.width}x{recipe.height} - {config.name} was trained at {config.sample_size}: "
            f"sides from {SD_SIDES[0]} to {SD_SIDES[1]} come out best"
        )
    if recipe.guidance is not None and abs(recipe.guidance) > 30:
        log.warning(f"guidance {recipe.guidance:g} is far beyond the usual 1 to 15: expect noise")
    elif (recipe.guidance or 0.0) > 2 * config.guidance and (recipe.steps or 0) < ENOUGH:
        log.warning(
            f"guidance {recipe.guidance:g} may leave seams and blots in {recipe.steps} steps of {config.name}: "
            f"take {ENOUGH} or more"
        )


def with_seed(recipe: Recipe, count: int) -> Recipe:
    """The recipe with a seed, drawn if it has none. Raises UsageError if the last of `count` pictures would
    have none."""
    recipe = recipe if recipe.seed is not None else recipe.over(seed=drawn(-1))
    if recipe.subseed_strength and recipe.subseed is None:
        recipe = recipe.over(subseed=drawn(-1, "subseed"))
    if recipe.subseed is not None and recipe.subseed + count - 1 > SEED[1]:
        raise UsageError(
            f"subseed {recipe.subseed} and {count} pictures - choose a smaller subseed"
        )
    if recipe.seed is not None and recipe.seed + count - 1 > SEED[1]:
        raise UsageError(
            f"seed {recipe.seed} and {count} pictures - the last one's seed would exceed 2^64-1 - "
            "choose a smaller seed"
        )
    return recipe


def drawn(seed: int, name: str = "seed") -> int:
    """The seed; for -1 a random one, with a note that names it."""
    if seed != -1:
        return seed
    seed = random_seed()
    log.info(f"{name} {seed}")
    return seed
