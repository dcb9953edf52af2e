"""The six exercises by name."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from sd_scratch.errors import UsageError
from sd_scratch.teaching import ddim_steps, guidance, latents, predictors, schedules, unets
from sd_scratch.teaching.table import Table

__all__ = ["EXERCISES", "Exercise", "Table", "get_exercise"]


@dataclass(frozen=True)
class Exercise:
    """What ``sd-scratch teach NAME`` shows; `run` takes no arguments and computes it."""

    name: str
    question: str
    run: Callable[[], Table]


EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for exercise in (
        Exercise("schedules", "How fast does each schedule lose the picture?", schedules.compare),
        Exercise(
            "predictors", "How good is a guess of the noise, by timestep?", predictors.evaluate
        ),
        Exercise("unet", "Where are a U-Net's parameters and its memory?", unets.analyse),
        Exercise("latents", "What does working on a latent save?", latents.compare),
        Exercise(
            "guidance", "What does guidance do to a direction and to its length?", guidance.sweep
        ),
        Exercise(
            "ddim",
            "How many steps does DDIM need, with a perfect and with a real guess?",
            ddim_steps.estimate,
        ),
    )
}


def get_exercise(name: str) -> Exercise:
    """The exercise called `name`. Raises `UsageError` with the nearest name and the list."""
    if name not in EXERCISES:
        near = difflib.get_close_matches(name, EXERCISES, n=1)
        hint = f" - did you mean {near[0]}?" if near else ""
        raise UsageError(f"exercise {name!r} is unknown{hint} - there is {', '.join(EXERCISES)}")
    return EXERCISES[name]
