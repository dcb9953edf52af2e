#!/usr/bin/env python3
"""How fast each sampler's error falls with its steps, where the exact answer is known: a table in Markdown.

    .venv/bin/python scripts/sampler_orders.py

The data are a mixture of three Gaussians in the plane, for which the best guess of the noise is a formula. A run
goes from sigma 8 down to sigma 0.2, evenly in log sigma, and is compared there with the same way in 20,000 steps
of a fourth-order method, all in float64. Samplers with fresh noise are measured without it (eta = 0). The order is
the slope of log error over log steps, from 32 to 128 steps.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sd_scratch.config import ScheduleConfig
from sd_scratch.diffusion.samplers import get_sampler
from sd_scratch.diffusion.schedule import Ladder, Schedule

HIGH, LOW = 8.0, 0.2
COUNTS = (8, 16, 32, 64, 128)
ROWS: tuple[tuple[str, dict[str, object]], ...] = (
    ("euler", {}),
    ("ddim", {}),
    ("heun", {}),
    ("dpm2", {}),
    ("dpmpp_2s_a", {"eta": 0.0}),
    ("dpmpp_sde", {"eta": 0.0}),
    ("dpmpp_2m", {}),
    ("dpmpp_2m_sde", {"eta": 0.0}),
    ("dpmpp_3m_sde", {"eta": 0.0}),
    ("lms", {"order": 2}),
    ("lms", {"order": 4}),
    ("deis", {"order": 2}),
    ("deis", {"order": 3}),
    ("unipc", {"order": 1}),
    ("unipc", {"order": 2}),
    ("unipc", {"order": 3}),
)
CENTRES = torch.tensor([[-2.0, -1.0], [2.0, -1.0], [0.0, 2.0]], dtype=torch.float64)
SPREAD = 0.5


class Smooth(Schedule):
    """A schedule whose timestep is log sigma, exactly: SD's own is a table, and its corners would be measured."""

    def timestep_at(self, sigma: float) -> float:
        return math.log(sigma)

    def sigma_at(self, t: float) -> float:
        return math.exp(t)

    def alpha_bar_at(self, t: float) -> float:
        return 1.0 / (1.0 + math.exp(2.0 * t))


def noise_of(x: Tensor, sigma: float) -> Tensor:
    """The mean of eps behind x = x0 + sigma eps: ``[N, 2]``."""
    variance = SPREAD**2 + sigma**2
    away = CENTRES - x[:, None]
    share = (-away.square().sum(-1) / (2 * variance)).softmax(dim=1)
    return -sigma * (share[..., None] * away).sum(1) / variance


def model(x_t: Tensor, t: float) -> Tensor:
    sigma = math.exp(t)
    return noise_of(x_t * math.hypot(sigma, 1.0), sigma)


def ladder(steps: int) -> Ladder:
    """`steps` steps from HIGH to LOW, and one more from there, which is not looked at."""
    schedule = Smooth(ScheduleConfig(set_alpha_to_one=True))
    sigmas = [HIGH * (LOW / HIGH) ** (i / steps) for i in range(steps + 1)]
    return Ladder(
        timesteps=tuple(math.log(sigma) for sigma in sigmas),
        alpha_bars=tuple(1.0 / (1.0 + sigma**2) for sigma in sigmas),
        sigmas=tuple(sigmas),
        final_alpha_bar=1.0,
        noise_scale=1.0,
        schedule=schedule,
    )


def start() -> Tensor:
    """Where a run begins, as the network sees it: ``[64, 2]``."""
    generator = torch.Generator().manual_seed(0)
    x = HIGH * torch.randn(64, 2, generator=generator, dtype=torch.float64)
    return x / math.hypot(HIGH, 1.0)


def exact(steps: int = 20_000) -> Tensor:
    """The solution at LOW by Runge and Kutta's method of fourth order."""
    x = start() * math.hypot(HIGH, 1.0)
    u, h = math.log(HIGH), (math.log(LOW) - math.log(HIGH)) / steps

    def slope(x: Tensor, u: float) -> Tensor:
        return math.exp(u) * noise_of(x, math.exp(u))

    for _ in range(steps):
        k1 = slope(x, u)
        k2 = slope(x + h / 2 * k1, u + h / 2)
        k3 = slope(x + h / 2 * k2, u + h / 2)
        k4 = slope(x + h * k3, u + h)
        x, u = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), u + h
    return x


def errors(name: str, options: dict[str, object], solution: Tensor) -> tuple[list[float], int]:
    """The root mean squared error at LOW for each of `COUNTS`, and the calls that one step takes."""
    found, calls = [], 0

    def counted(x_t: Tensor, t: float) -> Tensor:
        nonlocal calls
        calls += 1
        return model(x_t, t)

    draw: Callable[[], Tensor] = lambda: torch.zeros(64, 2, dtype=torch.float64)  # noqa: E731
    for count in COUNTS:
        calls = 0
        steps = list(get_sampler(name).run(counted, start(), ladder(count), draw, **options))
        found.append(
            float((steps[-1].x_t * math.hypot(LOW, 1.0) - solution).square().mean().sqrt())
        )
    return found, round(calls / COUNTS[-1])


def order_of(found: list[float]) -> float:
    """The slope between 32 and 128 steps."""
    return math.log(found[2] / found[4]) / math.log(COUNTS[4] / COUNTS[2])


def main() -> None:
    solution = exact()
    print(
        f"| sampler | calls a step | {' | '.join(f'{count} steps' for count in COUNTS)} | order |"
    )
    print("|---|---|" + "---|" * (len(COUNTS) + 1))
    for name, options in ROWS:
        found, calls = errors(name, options, solution)
        given = "".join(f", `{key}={value}`" for key, value in options.items())
        cells = " | ".join(f"{error:.1e}" for error in found)
        print(f"| `{name}`{given} | {calls} | {cells} | {order_of(found):.2f} |")


if __name__ == "__main__":
    main()
