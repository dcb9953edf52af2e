"""Dialects: how other tools make a picture of the same settings.

Where a picture of one tool comes out otherwise in another, it is for four reasons above all: where the
noise comes from, what weights do, how the noise levels are spread, and how many steps image to image
takes. Each has a setting of its own in a `Recipe`; a dialect is a set of them.
"""

from dataclasses import dataclass, fields
from typing import Any

from sd_scratch.errors import UsageError
from sd_scratch.pipeline.recipe import Recipe


@dataclass(frozen=True)
class Dialect:
    """Settings of a `Recipe` by their names there. None leaves a setting as it is."""

    name: str
    syntax: str
    emphasis: str
    rng: str
    text_cleaning: str
    strength_steps: str

    @property
    def settings(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "name"}


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("a1111", "a1111", "a1111", "nv", "openai", "a1111"),
        Dialect("comfy", "comfy", "comfy", "cpu", "transformers", "comfy"),
        Dialect("diffusers", "plain", "none", "cpu", "transformers", "diffusers"),
    )
}


def speak(recipe: Recipe, name: str) -> Recipe:
    """The recipe in a dialect. Raises UsageError for one that is not known."""
    if name not in DIALECTS:
        raise UsageError(f"unknown dialect '{name}' - use {', '.join(DIALECTS)}")
    return recipe.over(**DIALECTS[name].settings)
