"""How many steps DDIM needs: with a perfect guess of the noise, and with the shipped model's."""

import itertools
import math

import torch
from torch import Tensor

from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.pipeline.load import load
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.teaching.plot import curves
from sd_scratch.teaching.schedules import SCHEDULES
from sd_scratch.teaching.table import Table

COUNTS = (5, 10, 20, 50, 100)
FINE = 200
PROMPT = "a large red star on a blue background"
LENGTH = 256


def estimate(model: StableDiffusion | None = None) -> Table:
    """The squared error of DDIM by steps: against the signal that was noised, with the exact noise; and against
    200 steps, with the model."""
    model = model or load()
    prompt, noise = model.prompt(PROMPT), model.noise(seed=7)

    def made(steps: int) -> Tensor:
        return model.generate(prompt, noise, sampler="ddim", steps=steps).latent

    fine = made(FINE)
    errors = [float((made(steps) - fine).square().mean()) for steps in COUNTS]
    exact = [with_exact_noise(steps) for steps in COUNTS]
    rows = tuple(
        (steps, a, b, b / errors[-1]) for steps, a, b in zip(COUNTS, exact, errors, strict=True)
    )
    knee = next(
        (n for n, a, b in zip(COUNTS, errors, errors[1:], strict=False) if b > 0.9 * a), None
    )
    found = (
        f"from {knee} on more steps bring less than a tenth" if knee else "none within these counts"
    )
    return Table(
        ("steps", "exact noise", "model", "over 100 steps'"),
        rows,
        (
            "with the exact noise every number of steps is exact up to rounding: there is no knee to find",
            f"the model's error against {FINE} steps falls; its knee: {found}",
        ),
        curves(
            COUNTS,
            {"model": [math.log10(e) for e in errors]},
            "steps",
            "log10 of the squared error",
            log_x=True,
        ),
    )


def with_exact_noise(steps: int) -> float:
    """The squared error of DDIM on 256 numbers whose noise is known, over the linear schedule, in float64."""
    ab = Schedule(SCHEDULES["linear"]).alpha_bar.double()
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, LENGTH, generator=generator, dtype=torch.float64)
    visited = [round(t) for t in torch.linspace(999, 0, steps).tolist()]
    levels = [*(float(ab[t]) for t in visited), 1.0]
    x = math.sqrt(levels[0]) * x0 + math.sqrt(1 - levels[0]) * eps
    for here, there in itertools.pairwise(levels):
        guess = (x - math.sqrt(1 - here) * eps) / math.sqrt(here)
        x = math.sqrt(there) * guess + math.sqrt(1 - there) * eps
    return float((x - x0).square().mean())
