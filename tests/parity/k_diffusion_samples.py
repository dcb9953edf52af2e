"""Writes k_diffusion_samples.json: what k-diffusion's samplers make of a toy model, for the parity test.

k-diffusion needs more packages than all other tests together, so that the test reads its numbers from a file.
Where it is installed (0.1.1.post1 made the file), this makes them anew:

    python -m tests.parity.k_diffusion_samples
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sd_scratch.config import ScheduleConfig
from sd_scratch.diffusion.schedule import Ladder, Schedule
from tests.denoisers import gaussian

FILE = Path(__file__).with_suffix(".json")
STEPS = 12
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpm2": ("sample_dpm_2", {}),
    "dpm2_a": ("sample_dpm_2_ancestral", {}),
    "dpmpp_2s_a": ("sample_dpmpp_2s_ancestral", {}),
    "dpmpp_sde": ("sample_dpmpp_sde", {}),
    "dpmpp_2m_sde": ("sample_dpmpp_2m_sde", {}),
    "dpmpp_2m_sde heun": ("sample_dpmpp_2m_sde", {"solver_type": "heun"}),
    "dpmpp_3m_sde": ("sample_dpmpp_3m_sde", {}),
}


def subject() -> tuple[Callable[[Tensor, float], Tensor], Ladder, Tensor]:
    """The toy model, its ladder, and the unit-variance noise that a run starts from, all in float64."""
    schedule = Schedule(ScheduleConfig())
    ladder = schedule.ladder(STEPS, "karras", sigma_space=True)
    generator = torch.Generator().manual_seed(4)
    return (
        gaussian(schedule, 0.4, 0.6),
        ladder,
        torch.randn(2, 3, generator=generator, dtype=torch.float64),
    )


def noises() -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(5)
    while True:
        yield torch.randn(2, 3, generator=generator, dtype=torch.float64)


def brownian(draws: Iterator[Tensor]) -> Callable[[Any, Any], Tensor]:
    """Unit-variance increments of one path, asked first over half of a step and then over all of it."""
    seen: dict[str, Any] = {}

    def increment(a: Any, b: Any) -> Tensor:
        start, end = float(a), float(b)
        if seen.get("start") != start:
            seen.update(start=start, middle=end, first=next(draws))
            first: Tensor = seen["first"]
            return first
        share = (start - seen["middle"]) / (start - end)
        return math.sqrt(share) * seen["first"] + math.sqrt(1 - share) * next(draws)

    return increment


def main() -> None:
    from k_diffusion import sampling  # type: ignore[import-not-found]

    model, ladder, start = subject()

    def denoise(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        level = float(sigma.flatten()[0])
        return x - level * model(x / math.hypot(level, 1.0), ladder.schedule.timestep_at(level))

    made = {}
    for name, (function, options) in SAMPLERS.items():
        draws = noises()
        if name != "dpm2":
            noise = (
                brownian(draws) if name == "dpmpp_sde" else lambda a, b, draws=draws: next(draws)
            )
            options = {**options, "noise_sampler": noise}
        x = start * math.hypot(ladder.sigmas[0], 1.0)
        sigmas = torch.tensor((*ladder.sigmas, 0.0), dtype=torch.float64)
        made[name] = getattr(sampling, function)(
            denoise, x, sigmas, disable=True, **options
        ).tolist()
    FILE.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
