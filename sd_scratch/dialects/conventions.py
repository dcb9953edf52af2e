"""Dialects: how other tools make a picture of the same settings.

A picture differs in another tool mostly for four reasons: the source of the noise, the effect of weights, the
spacing of noise levels, and the steps of image to image. Each has a setting in a `Recipe`; a dialect is a set
of them.
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
    """The recipe in a dialect. Raises UsageError for an unknown one."""
    if name not in DIALECTS:
        raise UsageError(f"unknown dialect '{name}' - use {', '.join(DIALECTS)}")
    return recipe.over(**DIALECTS[name].settings)
