"""Settings of a recipe without effect in its run."""

from collections.abc import Iterator

from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.way import Way


def idle_settings(recipe: Recipe, way: Way) -> Iterator[str]:
    """A line for each setting of a complete recipe without effect in a run of this `Way`."""
    if recipe.subseed is not None and not recipe.subseed_strength:
        yield f"subseed {recipe.subseed} has no effect at subseed strength 0"
    if recipe.ensd and not way.draws_noise:
        yield f"ENSD {recipe.ensd} has no effect: {way.sampler.name} draws no noise on the way"
    if recipe.hires_scale is not None and recipe.hires_strength == 0:
        yield "strength 0 in the second pass: the picture is enlarged, and nothing is made anew"
    if not recipe.pag:
        for name in ("pag_layers", "pag_adaptive_scale"):
            if getattr(recipe, name):
                yield f"{name.replace('_', ' ')} has no effect without perturbed attention guidance"
    if recipe.guidance == 1.0:
        if recipe.negative_prompt.strip():
            yield "the negative prompt has no effect at guidance 1: the prompt alone is asked"
        if recipe.guidance_rescale:
            yield "guidance rescale has no effect at guidance 1"
