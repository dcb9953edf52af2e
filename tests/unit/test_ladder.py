"""Ladders of noise levels: what they hold, their tails, and what is none."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from sd_scratch.config import ScheduleConfig
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.diffusion.spacing import SIGMA_SPACINGS, SPACINGS, TIMESTEP_SPACINGS
from sd_scratch.errors import ScratchError, UsageError
from tests.denoisers import gaussian, lively

SD = Schedule(ScheduleConfig())


@pytest.mark.parametrize("sigma_space", [False, True])
@pytest.mark.parametrize("spacing", [None, *SPACINGS])
@pytest.mark.parametrize("own", list(TIMESTEP_SPACINGS))
def test_every_spacing_falls_and_agrees_with_itself(own, spacing, sigma_space):
    schedule = Schedule(replace(SD.config, timestep_spacing=own))
    for steps in (1, 2, 25, 1000):
        ladder = schedule.ladder(steps, spacing, sigma_space=sigma_space)
        uniform = "ddim_uniform" in (spacing, own if spacing in (None, "discrete") else None)
        assert len(ladder) == (999 if uniform and steps == 1000 else steps)
        assert all(a > b for a, b in pairwise(ladder.timesteps))
        assert all(a > b for a, b in pairwise(ladder.sigmas))
        for sigma, alpha_bar in zip(ladder.sigmas, ladder.alpha_bars, strict=True):
            assert sigma == pytest.approx(math.sqrt((1 - alpha_bar) / alpha_bar), rel=1e-6)
        plain = json.loads(json.dumps(ladder.plain()))
        assert schedule.ladder_from_plain(plain) == ladder


def test_a_model_s_own_spacing_is_the_default():
    schedule = Schedule(replace(SD.config, timestep_spacing="trailing"))
    assert schedule.ladder(7) == schedule.ladder(7, "trailing") == schedule.ladder(7, "discrete")
    assert schedule.ladder(7) != schedule.ladder(7, "leading")


def test_a_spacing_is_one_row_of_a_table(monkeypatch):
    monkeypatch.setitem(
        SIGMA_SPACINGS, "halves", lambda top, low, n: [top / 2**i for i in range(n)]
    )
    monkeypatch.setattr("sd_scratch.diffusion.spacing.SPACINGS", (*SPACINGS, "halves"))
    sigmas = SD.ladder(5, "halves").sigmas
    assert [a / b for a, b in pairwise(sigmas)] == pytest.approx([2] * 4)


def test_only_samplers_in_sigma_space_begin_with_less_than_unit_noise():
    trailing = Schedule(replace(SD.config, timestep_spacing="trailing"))
    assert trailing.ladder(10).noise_scale == SD.ladder(10, sigma_space=True).noise_scale == 1.0
    ladder = trailing.ladder(10, sigma_space=True)
    assert ladder.noise_scale == pytest.approx(ladder.sigmas[0] / math.hypot(ladder.sigmas[0], 1))


def test_unit_variance_is_asked_for():
    """ComfyUI begins with noise of standard deviation sqrt(1 + sigma^2), which is 1 here."""
    assert SD.ladder(10, "linspace", sigma_space=True).noise_scale < 1
    unit = SD.ladder(10, "linspace+unit", sigma_space=True)
    assert unit.noise_scale == 1.0
    assert replace(unit, noise_scale=0.0) == replace(
        SD.ladder(10, "linspace", sigma_space=True), noise_scale=0.0
    )


def test_a_ladder_may_have_other_rungs_than_were_asked_for():
    assert len(SD.ladder(30, "ddim_uniform")) == 31  # of stride 33
    ladder = SD.ladder(20, "ddim_uniform+end")
    assert len(ladder) == 19 and ladder.timesteps[-1] == 51
    assert (ladder.final_alpha_bar, ladder.final_sigma) == (SD.alpha_bar_at(1), SD.sigma_at(1))
    with pytest.raises(UsageError, match="has no step - take more steps"):
        SD.ladder(1, "ddim_uniform+end")


def test_a_spacing_is_found_in_any_letters():
    assert SD.ladder(9, "KARRAS+all") == SD.ladder(9, "karras+all")
    assert SD.ladder(9, "SGM Uniform") == SD.ladder(9, "sgm_uniform")


def test_tails():
    ladder = SD.ladder(50)  # 981, 961, ... 1
    assert ladder.below(999) == ladder.below(981) == ladder
    assert ladder.below(980).timesteps == ladder.below(961).timesteps == ladder.timesteps[1:]
    assert ladder.below(1.5).timesteps == ladder.below(1).timesteps == (1.0,)
    assert ladder.below(1).sigmas == ladder.sigmas[-1:]
    for t, message in (
        (1000, "above the schedule's top"),
        (math.nan, "above"),
        (0.5, "last rung, t = 1"),
    ):
        with pytest.raises(UsageError, match=message):
            ladder.below(t)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SD.ladder(10, "karas"), "did you mean karras"),
        (lambda: SD.ladder_of_sigmas([1.0, 2.0]), "does not fall: sigma 2 .* after 1 "),
        (lambda: SD.ladder_of_sigmas([2.0, 2.0]), "does not fall"),
        (lambda: SD.ladder_of_sigmas([2.0, 0.0]), "above 0"),
        (lambda: SD.ladder_of_sigmas([]), "needs a timestep"),
        (lambda: SD.ladder_of_timesteps([10, 10]), "does not fall"),
        (lambda: SD.ladder_of_timesteps([1000, 10]), "0 to 999"),
        (lambda: SAMPLERS["ddim"].ladder(SD, 3, SD.ladder(4)), "3 steps on a ladder of 4"),
    ],
)
def test_what_is_no_ladder(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize("plain", [{}, {"timesteps": 1}, {**SD.ladder(3).plain(), "sigmas": ["a"]}])
def test_a_damaged_plain_ladder(plain):
    with pytest.raises(ScratchError):
        SD.ladder_from_plain(plain)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_every_sampler_can_begin_on_any_rung(name):
    """The one possible image is found from each, with as many steps as there are rungs."""
    schedule = Schedule(replace(SD.config, set_alpha_to_one=True))
    x0 = torch.linspace(-1, 1, 4)[None].double()
    for spacing in (None, "karras"):
        ladder = SAMPLERS[name].ladder(schedule, 12, spacing)
        for first in range(12):
            tail, noise = ladder.tail(first), torch.ones_like(x0)
            a, s = math.sqrt(tail.alpha_bars[0]), math.sqrt(1 - tail.alpha_bars[0])
            model = gaussian(schedule, x0, 0.0)
            *_, last = steps = [*SAMPLERS[name].run(model, a * x0 + s * noise, tail, noise.clone)]
            assert len(steps) == 12 - first and steps[0].t == tail.timesteps[0]
            kept = 1e-2 if name == "lcm" else 1e-9  # LCM's answer keeps a little of x_t
            torch.testing.assert_close(last.x_next, x0, rtol=0, atol=kept)


@pytest.mark.parametrize("name", ["ddim", "euler", "euler_a", "heun", "ddpm"])
def test_a_walk_in_two_parts_is_the_walk(name):
    """These look at one sample alone, so that a walk may be interrupted at any rung."""
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    ladder = SAMPLERS[name].ladder(SD, 10)
    whole = [*SAMPLERS[name].run(lively(SD), x, ladder, x.clone)]
    rest = [
        *SAMPLERS[name].run(lively(SD), whole[5].x_next, ladder.below(ladder.timesteps[6]), x.clone)
    ]
    torch.testing.assert_close(rest[-1].x_next, whole[-1].x_next, rtol=0, atol=1e-12)


def test_spacings_as_others_have_them():
    """diffusers' exponential and beta sigmas (scipy's quantiles), and the published ones of Align Your Steps."""
    from scipy.stats import beta

    high, low = 14.6, 0.03
    found = SIGMA_SPACINGS["exponential"](high, low, 9)
    assert [a / b for a, b in pairwise(found)] == pytest.approx([(high / low) ** (1 / 8)] * 8)
    quantiles = beta.ppf([1 - i / 8 for i in range(9)], 0.6, 0.6)
    assert SIGMA_SPACINGS["beta"](high, low, 9) == pytest.approx(
        list(low + quantiles * (high - low)), abs=1e-4
    )
    assert SIGMA_SPACINGS["ays"](high, low, 11)[1:10:4] == pytest.approx([6.475, 1.396, 0.152])
    assert SIGMA_SPACINGS["polyexponential"](high, low, 5)[::4] == pytest.approx([high, low])
    assert TIMESTEP_SPACINGS["simple"](1000, 3, 1) == [999, 666, 333]
    assert TIMESTEP_SPACINGS["sgm_uniform"](1000, 4, 1) == pytest.approx(
        [999, 749.25, 499.5, 249.75]
    )
