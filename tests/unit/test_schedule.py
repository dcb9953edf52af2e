import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from sd_scratch.config import ScheduleConfig
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.errors import ScratchError, UsageError

SD = ScheduleConfig()
SPACINGS = ("leading", "linspace", "trailing")


def test_sd_noise_levels_are_the_published_ones() -> None:
    schedule = Schedule(SD)
    assert float(schedule.alpha_bar[0]) == pytest.approx(1 - 0.00085, abs=1e-7)
    assert float(schedule.alpha_bar[-1]) == pytest.approx(0.0046600, abs=1e-7)
    assert float(schedule.sigmas[0]) == pytest.approx(0.029167, abs=1e-6)
    assert float(schedule.sigmas[-1]) == pytest.approx(14.6146, abs=1e-4)


def test_alpha_bar_is_the_float64_product_rounded_once() -> None:
    start, end = math.sqrt(SD.beta_start), math.sqrt(SD.beta_end)
    product, expected = 1.0, []
    for i in range(1000):
        product *= 1 - (start + (end - start) * i / 999) ** 2
        expected.append(product)
    exact = torch.tensor(expected, dtype=torch.float64)
    error = (Schedule(SD).alpha_bar.double() - exact).abs() / exact
    assert float(error.max()) <= 2**-24  # half a unit in the last place of float32


def test_linear_betas_of_ho_et_al() -> None:
    config = replace(SD, beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    schedule = Schedule(config)
    assert float(schedule.betas[0]) == pytest.approx(1e-4)
    assert float(schedule.betas[500]) == pytest.approx(1e-4 + 0.0199 * 500 / 999)
    assert float(schedule.alpha_bar[-1]) == pytest.approx(4.0358e-5, rel=1e-4)


def test_cosine_alpha_bar_is_a_squared_cosine_until_beta_is_capped() -> None:
    schedule = Schedule(replace(SD, beta_schedule="squaredcos_cap_v2"))

    def f(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 1, 250, 500, 900, 998):
        assert float(schedule.alpha_bar[t]) == pytest.approx(f((t + 1) / 1000) / f(0), rel=1e-5)
    assert float(schedule.betas[-1]) == pytest.approx(0.999)
    assert torch.isfinite(schedule.sigmas).all()


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noise_only_grows(kind: str) -> None:
    schedule = Schedule(replace(SD, beta_schedule=kind))
    assert (schedule.alpha_bar.diff() < 0).all()
    assert (schedule.sigmas.diff() > 0).all()
    assert schedule.alpha_bar.dtype == schedule.betas.dtype == schedule.sigmas.dtype
    assert schedule.alpha_bar.dtype == torch.float32


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("T", [1000, 400, 7])
def test_every_number_of_steps_falls_strictly_inside_the_schedule(
    T: int, spacing: str, offset: int
) -> None:
    config = replace(SD, num_train_timesteps=T, timestep_spacing=spacing, steps_offset=offset)
    schedule = Schedule(config)
    for steps in range(1, T + 1):
        timesteps = schedule.timesteps(steps)
        assert len(timesteps) == steps
        assert all(a > b for a, b in pairwise(timesteps))
        assert timesteps[0] <= T - 1 and timesteps[-1] >= 0
    assert schedule.timesteps(T) == list(range(T - 1, -1, -1))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_one_step_starts_where_the_noise_is(spacing: str) -> None:
    assert Schedule(replace(SD, timestep_spacing=spacing)).timesteps(1) == [999]


@pytest.mark.parametrize("steps", [0, -1, 1001, 1.5, math.nan, True, "10"])
def test_impossible_numbers_of_steps_are_bad_usage(steps: int) -> None:
    with pytest.raises(ScratchError, match="from 1 to 1000") as error:
        Schedule(SD).timesteps(steps)
    assert isinstance(error.value, UsageError)


@pytest.mark.parametrize(
    "change",
    [
        {"beta_schedule": "exotic"},
        {"timestep_spacing": "karras"},
        {"prediction_type": "flow"},
        {"num_train_timesteps": 0},
        {"steps_offset": -1},
        {"beta_start": 0.0},
        {"beta_end": 1.5},
        {"beta_end": math.nan},
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ScratchError, match="schedule"):
        Schedule(replace(SD, **change))


def test_final_alpha_bar() -> None:
    schedule = Schedule(SD)
    assert schedule.final_alpha_bar == float(schedule.alpha_bar[0])
    assert Schedule(replace(SD, set_alpha_to_one=True)).final_alpha_bar == 1.0


def test_sigma_and_timestep_are_inverse() -> None:
    schedule = Schedule(SD)
    for t in (0, 1, 500, 999):
        assert schedule.sigma_at(t) == pytest.approx(float(schedule.sigmas[t]), rel=1e-7)
        assert schedule.timestep_at(schedule.sigma_at(t)) == pytest.approx(t, abs=1e-6)
    low, high = schedule.sigma_at(500), schedule.sigma_at(501)
    assert schedule.sigma_at(500.25) == pytest.approx(0.75 * low + 0.25 * high)
    assert schedule.timestep_at(math.sqrt(low * high)) == pytest.approx(500.5)
    assert schedule.timestep_at(1e9) == 999 and schedule.timestep_at(1e-9) == 0


def test_add_noise_mixes_each_image_at_its_own_timestep() -> None:
    schedule = Schedule(SD)
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 2, 2, generator=generator)
    kept = x0.clone()
    t = torch.tensor([0, 500, 999])
    x_t = schedule.add_noise(x0, noise, t)
    for i in range(3):
        alpha_bar = float(schedule.alpha_bar[t[i]])
        expected = math.sqrt(alpha_bar) * x0[i] + math.sqrt(1 - alpha_bar) * noise[i]
        torch.testing.assert_close(x_t[i], expected, rtol=0, atol=1e-6)
        alone = schedule.add_noise(x0[i], noise[i], int(t[i]))
        torch.testing.assert_close(x_t[i], alone, rtol=0, atol=1e-6)
    assert torch.equal(x0, kept)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_add_noise_keeps_the_dtype(dtype: torch.dtype) -> None:
    x0 = torch.ones(2, 4, 2, 2, dtype=dtype)
    schedule = Schedule(SD)
    assert schedule.add_noise(x0, x0, torch.tensor([3, 4])).dtype == dtype
    assert schedule.add_noise(x0, x0, 3).dtype == dtype
