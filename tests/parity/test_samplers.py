"""Samplers against diffusers' schedulers, configured as SD 1.x ships them, step by step.

Both sides see the same toy network and, where noise is added, the same noise.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from sd_scratch.config import ScheduleConfig
from sd_scratch.diffusion.prediction import eps_from_v
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.diffusion.schedule import Schedule
from tests.denoisers import Recorder, lively

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

TOLERANCE, REFERENCE_TOLERANCE = 1e-5, 4e-5
SHIPPED = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
STEPS = [2, 10, 50]
KINDS = ["epsilon", "v_prediction"]

Model = Callable[[Tensor, float], Tensor]
Pair = tuple[Tensor, Tensor]


def start_noise() -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def step_noises(steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(2, 4, 8, 8, generator=generator) for _ in range(steps)]


def schedule_for(kind: str, **changes: Any) -> Schedule:
    return Schedule(replace(ScheduleConfig(), prediction_type=kind, **changes))


def ours(
    name: str,
    model: Model,
    schedule: Schedule,
    steps: int,
    spacing: str | None = None,
    **options: object,
) -> list[Pair]:
    """The variance-preserving sample after every step, in float32 and in float64."""
    ladder = SAMPLERS[name].ladder(schedule, steps, spacing)

    def samples(model: Model, dtype: torch.dtype) -> list[Tensor]:
        noises = (noise.to(dtype) for noise in step_noises(steps))
        start = ladder.noise_scale * start_noise().to(dtype)
        run = SAMPLERS[name].run(model, start, ladder, lambda: next(noises), **options)
        return [step.x_next for step in run]

    unwatched = model.model if isinstance(model, Recorder) else model
    single, exact = samples(model, torch.float32), samples(unwatched, torch.float64)
    return list(zip(single, exact, strict=True))


def theirs(
    scheduler: Any, model: Model, steps: int, monkeypatch: pytest.MonkeyPatch, **step_options: float
) -> list[Tensor]:
    """The scheduler's own sample after every one of its steps."""
    noises = [*step_noises(steps)[:-1], torch.zeros(2, 4, 8, 8)]
    if "eta" in step_options:  # DDIM stops at alpha_bar_0, so that its last step is noisy too
        noises = step_noises(steps)
    draws = iter(noises)
    module = type(scheduler).__module__
    if hasattr(__import__(module, fromlist=["randn_tensor"]), "randn_tensor"):
        monkeypatch.setattr(f"{module}.randn_tensor", lambda *args, **kwargs: next(draws))
    scheduler.set_timesteps(steps)
    x, samples = start_noise() * scheduler.init_noise_sigma, []
    for t in scheduler.timesteps:
        raw = model(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(raw, t, x, **step_options).prev_sample
        samples.append(x)
    return samples


def assert_close(pair: Pair, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Both sides near the sample in float64. diffusers computes sigmas, fractional timesteps and LMS'
    integrals in float32, and how far that takes it depends on the processor."""
    actual, exact = pair
    assert float(actual.std()) > 0.3  # two samples of zeros would be equal too
    torch.testing.assert_close(actual.double(), exact, rtol=0, atol=tolerance)
    torch.testing.assert_close(expected.double(), exact, rtol=0, atol=REFERENCE_TOLERANCE)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to_one", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim(
    eta: float, to_one: bool, kind: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = diffusers.DDIMScheduler(
        **SHIPPED, prediction_type=kind, set_alpha_to_one=to_one, clip_sample=False
    )
    schedule = schedule_for(kind, set_alpha_to_one=to_one)
    model = lively(schedule)
    expected = theirs(scheduler, model, steps, monkeypatch, eta=eta)
    for a, b in zip(ours("ddim", model, schedule, steps, eta=eta), expected, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm(variance: str, kind: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last noise is zero on both sides: diffusers leaves it out only where t is 0, and with
    the offset the last timestep is 1."""
    scheduler = diffusers.DDPMScheduler(
        **SHIPPED, prediction_type=kind, variance_type=variance, clip_sample=False
    )
    schedule = schedule_for(kind)
    model = lively(schedule)
    expected = theirs(scheduler, model, steps, monkeypatch)
    for a, b in zip(ours("ddpm", model, schedule, steps, variance=variance), expected, strict=True):
        assert_close(a, b)


# diffusers' Runge-Kutta start fails below 4 timesteps.
STARTS = pytest.mark.parametrize(
    ("prk", "steps"), [(False, 2), (False, 10), (False, 50), (True, 10), (True, 50)]
)


def pndm_scheduler(kind: str, prk: bool) -> Any:
    return diffusers.PNDMScheduler(
        **SHIPPED, prediction_type=kind, set_alpha_to_one=False, skip_prk_steps=not prk
    )


@STARTS
@pytest.mark.parametrize("kind", KINDS)
def test_pndm(prk: bool, kind: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers combines raw answers; for eps that is the same, for v it is `mix="output"`."""
    schedule = schedule_for(kind)
    model = Recorder(lively(schedule))
    expected = theirs(pndm_scheduler(kind, prk), model, steps, monkeypatch)
    asked, model.timesteps = model.timesteps, []
    mix = "eps" if kind == "epsilon" else "output"
    actual = ours("pndm", model, schedule, steps, prk=prk, mix=mix)
    assert model.timesteps == asked
    # Several calls of diffusers make one step while a method is starting.
    kept = expected[3:12:4] + expected[12:] if prk else expected[1:]
    for a, b in zip(actual, kept, strict=True):
        assert_close(a, b)


@STARTS
def test_pndm_on_eps_made_of_v(prk: bool, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our default for v-prediction is diffusers' own method for eps, given eps."""
    schedule = schedule_for("v_prediction")
    model = lively(schedule)

    def in_eps(x_t: Tensor, t: float) -> Tensor:
        return eps_from_v(model(x_t, t), x_t, schedule.alpha_bar_at(int(t)))

    expected = theirs(pndm_scheduler("epsilon", prk), in_eps, steps, monkeypatch)
    assert_close(ours("pndm", model, schedule, steps, prk=prk)[-1], expected[-1])


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigmas", ["discrete", "karras"])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_lms(
    spacing: str, sigmas: str, kind: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order 4, all that diffusers' pipelines use. Samples are compared as the network sees them."""
    scheduler = diffusers.LMSDiscreteScheduler(
        **{**SHIPPED, "timestep_spacing": spacing},
        prediction_type=kind,
        use_karras_sigmas=sigmas == "karras",
    )
    schedule = schedule_for(kind, timestep_spacing=spacing)
    model = Recorder(lively(schedule))
    expected = theirs(scheduler, model, steps, monkeypatch)
    asked, model.timesteps = model.timesteps, []
    actual = ours("lms", model, schedule, steps, sigmas)
    shipped = (spacing, sigmas) == ("leading", "discrete")
    assert model.timesteps == (asked if shipped else pytest.approx(asked, abs=1e-2))
    for a, b, sigma in zip(actual, expected, scheduler.sigmas[1:], strict=True):
        assert_close(a, b / (sigma**2 + 1) ** 0.5, TOLERANCE if shipped else 2e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_lms_of_lower_order(order: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.LMSDiscreteScheduler(**SHIPPED, prediction_type=kind)
    schedule = schedule_for(kind)
    model = lively(schedule)
    expected = theirs(scheduler, model, 10, monkeypatch, order=order)
    assert_close(ours("lms", model, schedule, 10, order=order)[-1], expected[-1])


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigmas", ["discrete", "karras"])
@pytest.mark.parametrize("name", ["euler", "heun"])
def test_euler_and_heun(
    name: str, sigmas: str, kind: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = {"euler": diffusers.EulerDiscreteScheduler, "heun": diffusers.HeunDiscreteScheduler}
    scheduler = make[name](**SHIPPED, prediction_type=kind, use_karras_sigmas=sigmas == "karras")
    schedule = schedule_for(kind)
    model = Recorder(lively(schedule))
    expected = theirs(scheduler, model, steps, monkeypatch)
    asked, model.timesteps = model.timesteps, []
    actual = ours(name, model, schedule, steps, sigmas)
    assert model.timesteps == pytest.approx(asked, abs=1e-2)
    levels = scheduler.sigmas[1:]
    if name == "heun":  # two of diffusers' steps, and two equal sigmas, but for the last
        expected, levels = [*expected[1::2], expected[-1]], scheduler.sigmas[1::2]
    for a, b, sigma in zip(actual, expected, levels, strict=True):
        assert_close(a, b / (sigma**2 + 1) ** 0.5)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_euler_a(kind: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**SHIPPED, prediction_type=kind)
    schedule = schedule_for(kind)
    model = lively(schedule)
    expected = theirs(scheduler, model, steps, monkeypatch)
    actual = ours("euler_a", model, schedule, steps)
    for a, b, sigma in zip(actual, expected, scheduler.sigmas[1:], strict=True):
        assert_close(a, b / (sigma**2 + 1) ** 0.5)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigmas", ["discrete", "karras"])
def test_dpmpp_2m(sigmas: str, kind: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the ladder that diffusers' other samplers use; its DPM solvers have one of their own."""
    ladder = diffusers.EulerDiscreteScheduler(**SHIPPED, use_karras_sigmas=sigmas == "karras")
    ladder.set_timesteps(steps)
    scheduler = diffusers.DPMSolverMultistepScheduler(**SHIPPED, prediction_type=kind)
    set_timesteps = scheduler.set_timesteps

    def set_same_timesteps(steps: int) -> None:
        set_timesteps(steps)
        scheduler.sigmas, scheduler.timesteps = ladder.sigmas, ladder.timesteps

    monkeypatch.setattr(scheduler, "set_timesteps", set_same_timesteps)
    schedule = schedule_for(kind)
    model = lively(schedule)
    expected = theirs(scheduler, model, steps, monkeypatch)
    for a, b in zip(ours("dpmpp_2m", model, schedule, steps, sigmas), expected, strict=True):
        assert_close(a, b)
