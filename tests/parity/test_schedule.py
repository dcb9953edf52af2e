"""Noise levels and timesteps against diffusers' schedulers, configured as SD 1.x ships them."""

from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import scipy.stats
import torch
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule
from torch import Tensor

from sd_scratch.config import ScheduleConfig
from sd_scratch.dialects.a1111 import recipe_from_parameters
from sd_scratch.diffusion.sampler_names import COMFY_SCHEDULES, a1111_schedule, comfy_schedule
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.diffusion.schedule import Schedule
from tests.denoisers import Recorder, gaussian, lively

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


def test_schedulers_of_comfyui() -> None:
    """Each by its definition: sigmas of the model's table, or of its two ends."""
    schedule = Schedule(SD)
    table = schedule.sigmas.double()
    high, low = float(table[-1]), float(table[0])
    for n in (2, 7, 20, 30, 60, 125):
        quantiles = scipy.stats.beta.ppf(1 - np.linspace(0, 1, n, endpoint=False), 0.6, 0.6)
        expected = {
            "ddim_uniform": table[1 :: 1000 // n].flip(0),
            "beta": table[np.rint(quantiles * 999)],
            "linear_quadratic": high * torch.tensor(linear_quadratic_schedule(n, 0.025)),
            "kl_optimal": torch.linspace(np.arctan(high), np.arctan(low), n).double().tan(),
        }
        for name, sigmas in expected.items():
            ladder = schedule.ladder(n, comfy_schedule("euler", name), sigma_space=True)
            ours = torch.tensor(ladder.sigmas, dtype=torch.float64)
            torch.testing.assert_close(ours, sigmas.double(), rtol=2e-5, atol=1e-6)
            assert ladder.noise_scale == 1 or name == "ddim_uniform"
    # What the network is told is the timestep whose sigma is the nearest, in logarithms.
    for name in COMFY_SCHEDULES:
        ladder = schedule.ladder(20, comfy_schedule("euler", name), sigma_space=True)
        told = [int((table.log() - np.log(sigma)).abs().argmin()) for sigma in ladder.sigmas]
        assert ladder.timesteps == tuple(told), name


def test_kl_optimal_of_a1111_ends_at_the_smallest_sigma() -> None:
    schedule = Schedule(SD)
    high, low = float(schedule.sigmas[-1]), float(schedule.sigmas[0])
    ladder = schedule.ladder(10, a1111_schedule("euler", "KL Optimal"), sigma_space=True)
    expected = torch.linspace(np.arctan(high), np.arctan(low), 11).double().tan()
    torch.testing.assert_close(torch.tensor(ladder.levels).double(), expected, rtol=2e-5, atol=0)


@pytest.mark.parametrize(("steps", "first"), [(20, 951), (30, 991), (27, 999), (2, 501)])
@pytest.mark.parametrize(
    ("name", "cls"), [("ddim", diffusers.DDIMScheduler), ("pndm", diffusers.PNDMScheduler)]
)
def test_ddim_and_plms_of_a1111(name: str, cls: type, steps: int, first: int) -> None:
    """Since 1.6: timesteps 1, 1 + stride, ..., cut to 999, and no step from the lowest."""
    stride = 1000 // steps
    levels = [min(t + 1, 999) for t in range(0, 1000, stride)][::-1]
    assert levels[0] == first
    more = {"skip_prk_steps": True} if name == "pndm" else {"clip_sample": False}
    scheduler = cls(**SD_KEYS, **more)
    schedule = Schedule(SD)
    model, x = lively(schedule), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    ladder = SAMPLERS[name].ladder(schedule, steps, a1111_schedule(name))
    assert ladder.timesteps == tuple(levels[:-1]) and ladder.noise_scale == 1
    assert ladder.final_alpha_bar == float(schedule.alpha_bar[1])
    ours = [step.x_next for step in SAMPLERS[name].run(model, x, ladder, lambda: x)]
    if first == 999 or len(ours) == 1:  # a shorter stride, or an end that diffusers has not
        return
    scheduler.set_timesteps(steps)
    called = levels[:-1]
    if name == "pndm":
        called = [called[0], called[1], *called[1:]]
    for t in called:
        x = scheduler.step(model(x, float(t)), t, x).prev_sample
    torch.testing.assert_close(ours[-1], x, rtol=0, atol=1e-5)


def test_unipc_of_a1111() -> None:
    """26 steps there are 27, from t = 999 to the noise of t = 0, here whole timesteps."""
    scheduler: Any = diffusers.UniPCMultistepScheduler(
        **SD_KEYS, solver_order=3, solver_type="bh1", final_sigmas_type="sigma_min"
    )
    scheduler.set_timesteps(27)
    schedule = Schedule(SD)
    model, start = lively(schedule), torch.randn(1, 4, 8, 8)
    text = "a\nSteps: 26, Sampler: UniPC, Seed: 1, Version: v1.10.1"
    recipe, _ = recipe_from_parameters(text, "x")
    assert recipe.sampler == "unipc" and recipe.steps == 27
    ladder = SAMPLERS["unipc"].ladder(schedule, recipe.steps, recipe.schedule)
    assert ladder.timesteps == tuple(scheduler.timesteps.tolist())
    x: Tensor = start
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, float(t)), t, x).prev_sample
    options = recipe.sampler_options
    steps = list(
        SAMPLERS["unipc"].run(model, ladder.noise_scale * start, ladder, lambda: x, **options)
    )
    torch.testing.assert_close(steps[-1].x_next, x, rtol=0, atol=2e-5)
