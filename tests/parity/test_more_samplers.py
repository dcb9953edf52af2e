"""The samplers that came after, against k-diffusion's numbers and diffusers' schedulers, and their orders."""

import json
import math
import sys
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from sd_scratch.config import ScheduleConfig
from sd_scratch.diffusion.samplers import get_sampler
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.errors import UsageError
from tests.denoisers import lively
from tests.parity import k_diffusion_samples as theirs

SHIPPED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("name", theirs.SAMPLERS)
def test_like_k_diffusion(name: str) -> None:
    model, ladder, start = theirs.subject()
    draws = theirs.noises()
    sampler, _, solver = name.partition(" ")
    options = {"solver": solver} if solver else {}
    steps = list(get_sampler(sampler).run(model, start, ladder, lambda: next(draws), **options))
    expected = torch.tensor(json.loads(theirs.FILE.read_text())[name], dtype=torch.float64)
    assert len(steps) == len(ladder)
    assert torch.allclose(steps[-1].x_next, expected, atol=1e-12, rtol=0)


def start_noise() -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [3, 10, 20])
@pytest.mark.parametrize("name", ["unipc", "deis"])
def test_like_diffusers_multistep(name: str, steps: int, order: int, kind: str) -> None:
    classes = {"unipc": diffusers.UniPCMultistepScheduler, "deis": diffusers.DEISMultistepScheduler}
    extra = {"final_sigmas_type": "zero"} if name == "unipc" else {}
    spacing = {"timestep_spacing": "leading", "steps_offset": 1}
    scheduler = classes[name](
        **SHIPPED, **spacing, **extra, prediction_type=kind, solver_order=order
    )
    scheduler.set_timesteps(steps)
    schedule = Schedule(replace(ScheduleConfig(), prediction_type=kind))
    model = lively(schedule)
    x, expected = start_noise(), []
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, float(t)), t, x).prev_sample
        expected.append(x)
    ladder = schedule.ladder_of_sigmas([float(sigma) for sigma in scheduler.sigmas[:-1]])
    ladder = replace(ladder, timesteps=tuple(float(t) for t in scheduler.timesteps))
    made = [
        s.x_next
        for s in get_sampler(name).run(model, start_noise(), ladder, start_noise, order=order)
    ]
    # diffusers' DEIS ends at the noise of t = 0, and keeps its order to the end from 15 steps on.
    compared = steps if name == "unipc" else steps - (2 if steps >= 15 and order == 3 else 1)
    scale = max(float(sample.abs().max()) for sample in expected)
    for mine, sample in list(zip(made, expected, strict=True))[:compared]:
        assert float((mine - sample).abs().max()) <= 2e-5 * max(scale, 1.0)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["lcm", "tcd"])
def test_like_diffusers_distilled(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cls, options = {
        "lcm": (diffusers.LCMScheduler, {}),
        "tcd": (diffusers.TCDScheduler, {"eta": 0.3}),
    }[name]
    scheduler: Any = cls(**SHIPPED, prediction_type=kind)
    scheduler.set_timesteps(4)
    noises = [torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    draws = iter(noises)
    monkeypatch.setattr(sys.modules[cls.__module__], "randn_tensor", lambda *a, **k: next(draws))
    schedule = Schedule(replace(ScheduleConfig(), prediction_type=kind))
    model, x = lively(schedule), start_noise()
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, float(t)), t, x, **options).prev_sample
    again = iter(noises)
    ladder = schedule.ladder(4, "lcm")
    assert ladder.timesteps == tuple(float(t) for t in scheduler.timesteps)
    steps = list(
        get_sampler(name).run(model, start_noise(), ladder, lambda: next(again), **options)
    )
    assert float((steps[-1].x_next - x).abs().max()) <= 1e-5


@pytest.mark.parametrize("steps", range(1, 51))
def test_timesteps_of_consistency_models(steps: int) -> None:
    scheduler: Any = diffusers.LCMScheduler(**SHIPPED)
    scheduler.set_timesteps(steps)
    ladder = Schedule(ScheduleConfig()).ladder(steps, "lcm")
    assert ladder.timesteps == tuple(float(t) for t in scheduler.timesteps)


def test_like_diffusers_2m_sde(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler: Any = diffusers.DPMSolverMultistepScheduler(
        **SHIPPED, algorithm_type="sde-dpmsolver++", solver_order=2, timestep_spacing="leading", steps_offset=1,
        lower_order_final=False, use_karras_sigmas=True,
    )  # fmt: skip
    scheduler.set_timesteps(10)
    schedule = Schedule(ScheduleConfig())
    model, x = lively(schedule), start_noise()
    noises = [
        torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(10)
    ]
    draws = iter(noises)
    module = sys.modules[type(scheduler).__module__]
    monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: next(draws))
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, float(t)), t, x).prev_sample
    again = iter(noises)
    ladder = schedule.ladder_of_sigmas([float(sigma) for sigma in scheduler.sigmas[:-1]])
    ladder = replace(ladder, timesteps=tuple(float(t) for t in scheduler.timesteps))
    steps = list(get_sampler("dpmpp_2m_sde").run(model, start_noise(), ladder, lambda: next(again)))
    assert float((steps[-1].x_next - x).abs().max()) <= 2e-5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deis", {"order": 4}),
        ("unipc", {"order": 0}),
        ("dpm2_a", {"eta": 2.0}),
        ("dpmpp_2s_a", {"eta": -1.0}),
        ("dpmpp_sde", {"eta": math.nan}),
        ("dpmpp_2m_sde", {"solver": "other"}),
        ("dpmpp_3m_sde", {"eta": 1.5}),
        ("tcd", {"eta": 1.1}),
    ],
)
def test_a_bad_option(name: str, options: dict[str, Any]) -> None:
    schedule = Schedule(ScheduleConfig())
    sampler = get_sampler(name)
    ladder = sampler.ladder(schedule, 4)
    with pytest.raises(UsageError):
        next(sampler.run(lively(schedule), start_noise(), ladder, start_noise, **options))
