"""Noise levels and timesteps against diffusers' schedulers, configured as SD 1.x ships them."""

from dataclasses import replace

import diffusers
import pytest
import torch

from sd_scratch.config import ScheduleConfig
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.diffusion.schedule import Schedule
from tests.denoisers import Recorder, gaussian

SD = ScheduleConfig()
SD_KEYS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SPACINGS = ("leading", "linspace", "trailing")


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noise_levels(kind: str) -> None:
    theirs = diffusers.DDIMScheduler(**{**SD_KEYS, "beta_schedule": kind})
    ours = Schedule(replace(SD, beta_schedule=kind))
    torch.testing.assert_close(ours.betas, theirs.betas, rtol=1e-6, atol=1e-8)
    # diffusers multiplies in float32; the end of the cosine schedule, 2e-9, shows it most.
    torch.testing.assert_close(ours.alpha_bar, theirs.alphas_cumprod, rtol=2e-5, atol=0)


def test_add_noise() -> None:
    x0, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 500, 999])
    theirs = diffusers.DDPMScheduler(**SD_KEYS).add_noise(x0, noise, t)
    torch.testing.assert_close(Schedule(SD).add_noise(x0, noise, t), theirs, rtol=0, atol=1e-6)


def broken(theirs: list[int], steps: int) -> bool:
    """Whether diffusers' list leaves the schedule, has another length, or starts without noise."""
    inside = all(0 <= t <= 999 for t in theirs)
    return not inside or len(theirs) != steps or (steps == 1 and theirs != [999])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_timesteps_for_every_number_of_steps(spacing: str) -> None:
    ours = Schedule(replace(SD, timestep_spacing=spacing))
    theirs = diffusers.DDIMScheduler(**SD_KEYS, steps_offset=1, timestep_spacing=spacing)
    different = []
    for steps in range(1, 1001):
        theirs.set_timesteps(steps)
        expected = theirs.timesteps.tolist()
        if broken(expected, steps):
            different.append(steps)
            # Trailing: one timestep too many, -1, where a sum of rounded strides falls short.
            if spacing == "trailing":
                assert ours.timesteps(steps) == expected[:-1]
        else:
            assert ours.timesteps(steps) == expected
    # One step starts at t = 1 (leading) or 0 (linspace) there, and 1000 leading steps at t = 1000.
    assert spacing == "trailing" or different == {"leading": [1, 1000], "linspace": [1]}[spacing]
    assert ours.timesteps(1) == [999]
    assert ours.timesteps(1000) == list(range(999, -1, -1))


@pytest.mark.parametrize(
    ("prk", "steps"),
    [
        *((False, steps) for steps in (2, 3, 50, 110, 333, 999, 1000)),
        *((True, steps) for steps in (50, 110, 333, 999, 1000)),  # diffusers fails below 4
    ],
)
def test_pndm_asks_at_the_same_timesteps(prk: bool, steps: int) -> None:
    theirs = diffusers.PNDMScheduler(**SD_KEYS, steps_offset=1, skip_prk_steps=not prk)
    theirs.set_timesteps(steps)
    expected = theirs.timesteps.tolist()
    if steps == 1000:  # with the offset of 1 diffusers starts outside, at t = 1000
        assert expected[0] == 1000
        expected = [t - 1 for t in expected]
    schedule = Schedule(SD)
    model, noise = Recorder(gaussian(schedule, 0.0, 1.0)), torch.ones(1, 1)
    for _ in SAMPLERS["pndm"].run(model, noise, schedule.ladder(steps), noise.clone, prk=prk):
        pass
    assert model.timesteps == expected
