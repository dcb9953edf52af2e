"""Noise schedules side by side: linear, scaled linear (Stable Diffusion's) and cosine."""

from sd_scratch.config import ScheduleConfig
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.teaching.plot import curves
from sd_scratch.teaching.table import Table

SHOWN = (0, 100, 250, 500, 750, 900, 999)
SCHEDULES = {
    "linear": ScheduleConfig(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"),
    "scaled linear": ScheduleConfig(),
    "cosine": ScheduleConfig(beta_schedule="squaredcos_cap_v2"),
}


def compare() -> Table:
    """alpha_bar and the signal-to-noise ratio in decibel at some of 1000 timesteps, and where signal and
    noise are equal."""
    made = {name: Schedule(config).alpha_bar.double() for name, config in SCHEDULES.items()}
    ratios = {name: 10 * (ab / (1 - ab)).log10() for name, ab in made.items()}
    rows = tuple(
        (t, *(float(v) for name in made for v in (made[name][t], ratios[name][t]))) for t in SHOWN
    )
    crossings = {name: int((ratio > 0).sum()) for name, ratio in ratios.items()}
    steps = list(range(0, 1000, 9))
    return Table(
        ("t", *(f"{name}{what}" for name in made for what in ("", ", dB"))),
        rows,
        (
            "signal and noise are equal (0 dB) at t = "
            + ", ".join(f"{t} ({name})" for name, t in crossings.items()),
            f"at t = 500 the linear schedule keeps {float(made['linear'][500]):.4f} of the variance",
        ),
        curves(
            steps, {name: ab[steps].tolist() for name, ab in made.items()}, "timestep", "alpha_bar"
        ),
    )
