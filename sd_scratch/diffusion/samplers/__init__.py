"""The samplers by name.

A new sampler is a file with one generator function beside these, and one entry in `SAMPLERS`.
"""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from sd_scratch.diffusion.samplers.ddim import ddim
from sd_scratch.diffusion.samplers.ddpm import ddpm
from sd_scratch.diffusion.samplers.deis import deis
from sd_scratch.diffusion.samplers.dpm2 import dpm2, dpm2_a
from sd_scratch.diffusion.samplers.dpmpp_2m import dpmpp_2m
from sd_scratch.diffusion.samplers.dpmpp_2s import dpmpp_2s
from sd_scratch.diffusion.samplers.dpmpp_2s_a import dpmpp_2s_a
from sd_scratch.diffusion.samplers.dpmpp_multistep_sde import dpmpp_2m_sde, dpmpp_3m_sde
from sd_scratch.diffusion.samplers.dpmpp_sde import dpmpp_sde
from sd_scratch.diffusion.samplers.euler import euler
from sd_scratch.diffusion.samplers.euler_a import euler_a
from sd_scratch.diffusion.samplers.heun import heun
from sd_scratch.diffusion.samplers.lcm import lcm
from sd_scratch.diffusion.samplers.lms import lms
from sd_scratch.diffusion.samplers.pndm import pndm
from sd_scratch.diffusion.samplers.step import Denoiser, Draw, Step, Steps, walk
from sd_scratch.diffusion.samplers.tcd import tcd
from sd_scratch.diffusion.samplers.unipc import unipc
from sd_scratch.diffusion.schedule import Ladder, Schedule
from sd_scratch.errors import UsageError
from sd_scratch.limits import read_integer, read_number, real, whole

__all__ = ["SAMPLERS", "Denoiser", "Draw", "Sampler", "Step", "Steps", "get_sampler", "walk"]


@dataclass(frozen=True)
class Sampler:
    """A sampler, with its texts for the command line and the pictures' metadata."""

    name: str
    function: Callable[..., Steps]
    metadata_name: str  # as AUTOMATIC1111 writes it
    description: str
    sigma_space: bool = False  # see `Schedule.ladder`
    climbs: bool = False  # from the picture at t = 0 up the ladder, not down
    spacing: str | None = None  # that it wants where nothing is said, if not the model's own

    @property
    def options(self) -> dict[str, object]:
        """The function's own options with their defaults: its keyword-only arguments."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def ladder(
        self, schedule: Schedule, steps: int | None, spacing: str | Ladder | None = None
    ) -> Ladder:
        """The ladder of so many steps and that spacing for this sampler, or the given one.

        Raises `UsageError` for an unknown spacing, for steps outside 1..T, and for steps that differ from the
        given ladder's length.
        """
        if not isinstance(spacing, Ladder):
            steps = schedule.check_steps(steps)
            spacing = self.spacing if spacing is None else spacing
            return schedule.ladder(steps, spacing, sigma_space=self.sigma_space)
        if steps not in (None, len(spacing)):
            raise UsageError(
                f"{steps} steps on a ladder of {len(spacing)} rungs - leave out the steps"
            )
        return spacing

    def run(
        self, model: Denoiser, x_t: Tensor, ladder: Ladder, draw: Draw, **options: object
    ) -> Steps:
        """The sampler's steps, lazily; the arguments are those of every sampler function, among them a
        variance-preserving sample at the ladder's top level.

        Raises `UsageError`: at once for an unknown option, with the first step for a bad value.
        """
        typed = {name: self.option(name, value) for name, value in options.items()}
        return self.function(model, x_t, ladder, draw, **typed)

    def option(self, name: str, value: object) -> Any:
        """The value of an option, of the type that its default has; a text may stand for any. Raises
        `UsageError` for an option or a value that is none."""
        if name not in self.options:
            hint = _did_you_mean(name, {known: known for known in self.options})
            raise UsageError(
                f"sampler {self.name} has no option {name!r}{hint}"
                f" - it has {', '.join(self.options) or 'none'}"
            )
        kind, text = type(self.options[name]), isinstance(value, str)
        known: dict[type, tuple[str, object]] = {
            bool: ("true or false", {"true": True, "false": False}.get(str(value).lower())),
            int: ("an integer", read_integer(str(value)) if text else whole(value)),
            float: ("a number", read_number(str(value)) if text else real(value)),
            str: ("a text", str(value)),
        }
        wanted, read = known.get(kind, ("", value))
        if wanted and read is None:
            raise UsageError(f"{self.name}'s {name} is {wanted}, not {value!r}")
        return read


# In the view of `sd_scratch.diffusion.samplers.sigma_space`.
InSigma = partial(Sampler, sigma_space=True)

SAMPLERS: dict[str, Sampler] = {
    sampler.name: sampler
    for sampler in (
        Sampler("pndm", pndm, "PLMS", "linear multistep on DDIM's step; what SD 1.x ships with"),
        Sampler("ddim", ddim, "DDIM", "first order; eta > 0 adds noise at every step"),
        Sampler("ddpm", ddpm, "DDPM", "the original random walk; wants hundreds of steps"),
        InSigma("lms", lms, "LMS", "linear multistep in sigma, orders 1 to 4"),
        InSigma("euler", euler, "Euler", "first order in sigma; DDIM in other coordinates"),
        InSigma("euler_a", euler_a, "Euler a", "Euler with fresh noise at every step"),
        InSigma("heun", heun, "Heun", "second order; two model calls a step"),
        InSigma("dpmpp_2m", dpmpp_2m, "DPM++ 2M", "second order multistep; good in 20 steps"),
        InSigma("dpm2", dpm2, "DPM2", "second order; two model calls a step"),
        InSigma("dpm2_a", dpm2_a, "DPM2 a", "DPM2 with fresh noise at every step"),
        InSigma(
            "dpmpp_2s", dpmpp_2s, "DPM++ 2S", "second order in cycles of two steps, orders 2 and 3"
        ),
        InSigma(
            "dpmpp_2s_a",
            dpmpp_2s_a,
            "DPM++ 2S a",
            "second order with fresh noise; two model calls a step",
        ),
        InSigma(
            "dpmpp_sde", dpmpp_sde, "DPM++ SDE", "the stochastic equation; two model calls a step"
        ),
        InSigma(
            "dpmpp_2m_sde", dpmpp_2m_sde, "DPM++ 2M SDE", "the stochastic equation from two answers"
        ),
        InSigma(
            "dpmpp_3m_sde",
            dpmpp_3m_sde,
            "DPM++ 3M SDE",
            "the stochastic equation from three answers; wants many steps",
        ),
        InSigma(
            "unipc", unipc, "UniPC", "predictor and corrector, orders 1 to 3; good in 10 steps"
        ),
        InSigma("deis", deis, "DEIS", "linear multistep in log sigma, orders 1 to 3"),
        Sampler(
            "lcm", lcm, "LCM", "for models distilled to consistency: 1 to 8 steps", spacing="lcm"
        ),
        Sampler(
            "tcd", tcd, "TCD", "the same with less fresh noise, for TCD's models", spacing="lcm"
        ),
    )
}


def get_sampler(name: str) -> Sampler:
    """The sampler called `name`; `UsageError` with the nearest name and the list."""
    if name not in SAMPLERS:
        names = {known: known for known in SAMPLERS}
        names |= {sampler.metadata_name.lower(): known for known, sampler in SAMPLERS.items()}
        raise UsageError(
            f"sampler {name!r} is unknown{_did_you_mean(name, names)}"
            f" - choose from {', '.join(SAMPLERS)}"
        )
    return SAMPLERS[name]


def _did_you_mean(word: str, names: dict[str, str]) -> str:
    """A question with the sampler's name spelled most like `word`, or ""."""
    near = difflib.get_close_matches(word.lower(), names, n=1)
    return f" - did you mean {names[near[0]]}?" if near else ""
