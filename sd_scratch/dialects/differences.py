"""The settings and conventions in which two recipes differ."""

from dataclasses import dataclass
from typing import Any

from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.settings import SETTINGS


@dataclass(frozen=True)
class Difference:
    """One setting that differs: its values, and what it decides."""

    name: str
    first: Any
    second: Any
    decides: str

    @property
    def is_convention(self) -> bool:
        """Whether tools have different defaults."""
        return SETTINGS[self.name].conventional


def differences(first: Recipe, second: Recipe) -> list[Difference]:
    """The settings in which two recipes differ, the largest effects first. A setting without effect in both,
    such as the emphasis without weights, is left out."""
    silent = set()
    texts = (text for one in (first, second) for text in (one.prompt, one.negative_prompt))
    if not any(sign in text for text in texts for sign in "(["):
        silent.add("emphasis")
    if not any(recipe.subseed_strength for recipe in (first, second)):
        silent |= {"subseed", "subseed_strength"}
    found = []
    for name, setting in SETTINGS.items():
        a, b = getattr(first, name), getattr(second, name)
        if name not in silent and (a or None) != (b or None):
            found.append(Difference(name, a, b, setting.decides))
    return found
