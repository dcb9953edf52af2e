import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sd_scratch.config import ScheduleConfig
from sd_scratch.diffusion.noise import NoiseSource
from sd_scratch.diffusion.prediction import PREDICTION_TYPES
from sd_scratch.diffusion.samplers import SAMPLERS, Step
from sd_scratch.diffusion.samplers.lms import lagrange_weights
from sd_scratch.diffusion.samplers.pndm import ADAMS_BASHFORTH
from sd_scratch.diffusion.schedule import Ladder, Schedule
from sd_scratch.diffusion.spacing import karras
from tests.denoisers import Recorder, gaussian, lively

SD = ScheduleConfig()
TO_ZERO = ScheduleConfig(set_alpha_to_one=True)  # every sampler ends without noise

Case = tuple[str, dict[str, object]]
DETERMINISTIC: list[Case] = [
    ("ddim", {}),
    ("pndm", {}),
    ("pndm", {"prk": True}),
    ("lms", {}),
    ("lms", {"order": 1}),
    ("lms", {"order": 2}),
    ("lms", {"order": 3}),
    ("lms", {"schedule": "karras"}),
    ("ddim", {"schedule": "karras"}),
    ("pndm", {"schedule": "karras", "prk": True}),
    ("euler", {}),
    ("euler_a", {"eta": 0.0}),
    ("heun", {}),
    ("heun", {"schedule": "karras"}),
    ("dpmpp_2m", {}),
    ("dpmpp_2m", {"schedule": "karras"}),
]
STOCHASTIC: list[Case] = [
    ("ddim", {"eta": 0.5}),
    ("ddim", {"eta": 1.0}),
    ("ddpm", {}),
    ("ddpm", {"variance": "fixed_large"}),
    ("euler_a", {}),
    ("euler_a", {"eta": 0.5, "schedule": "karras"}),
]
ALL = DETERMINISTIC + STOCHASTIC


def case_id(case: object) -> str | None:
    if not isinstance(case, tuple):
        return None
    name, options = case
    return "-".join([name, *(f"{key}={value}" for key, value in options.items())])


every = pytest.mark.parametrize("case", ALL, ids=case_id)
deterministic = pytest.mark.parametrize("case", DETERMINISTIC, ids=case_id)


def start_noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def on_ladder(case: Case, schedule: Schedule, steps: int) -> tuple[str, dict[str, object], Ladder]:
    """A case's sampler, its options, and its ladder: "schedule" is the ladder's option."""
    name, options = case
    options = dict(options)
    ladder = SAMPLERS[name].ladder(schedule, steps, options.pop("schedule", None))
    return name, options, ladder


def run(
    case: Case, model: object, noise: Tensor, schedule: Schedule, steps: int, seed: int = 5
) -> list[Step]:
    name, options, ladder = on_ladder(case, schedule, steps)
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.randn(noise.shape, generator=generator, dtype=torch.float64).to(noise)

    return list(SAMPLERS[name].run(model, ladder.noise_scale * noise, ladder, draw, **options))


def as_axes(size: int) -> Iterator[Tensor]:
    """Unit vectors in place of noise. A sampler that is linear then ends with the weight of every
    noise that went in, and its sum of squares is the variance, with no sampling error."""
    for i in range(size):
        yield torch.nn.functional.one_hot(torch.tensor([i]), size).double()


# What every sampler must do


@every
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("steps", [1, 2, 10, 110])
def test_one_possible_image_is_found_exactly(case: Case, kind: str, steps: int) -> None:
    schedule = Schedule(replace(TO_ZERO, prediction_type=kind))
    image = torch.linspace(-2, 2, 6, dtype=torch.float64)
    last = run(case, gaussian(schedule, image, 0.0), start_noise(2, 6), schedule, steps)[-1]
    torch.testing.assert_close(last.x_next, image.expand(2, 6), rtol=0, atol=1e-9)


@every
@pytest.mark.parametrize("steps", [1, 2, 3, 110, 333, 999, 1000])
def test_any_number_of_steps_gives_as_many_connected_steps(case: Case, steps: int) -> None:
    schedule = Schedule(SD)
    noise = start_noise(1, 4)
    taken = run(case, gaussian(schedule, 0.5, 0.5), noise, schedule, steps)
    assert [step.index for step in taken] == list(range(steps))
    assert taken[0].t == pytest.approx(999 if steps == 1 else schedule.timesteps(steps)[0])
    for step, following in pairwise(taken):
        assert step.t > following.t and step.sigma > following.sigma
        assert torch.equal(step.x_next, following.x_t)
    assert torch.isfinite(taken[-1].x_next).all()
    assert float((taken[-1].x_next - 0.5).abs().max()) < 3


@every
def test_a_step_says_what_the_network_said(case: Case) -> None:
    schedule = Schedule(replace(SD, prediction_type="v_prediction"))
    model = gaussian(schedule, 0.3, 0.7)
    for step in run(case, model, start_noise(1, 4), schedule, 5):
        a, s = math.sqrt(step.alpha_bar), math.sqrt(1 - step.alpha_bar)
        torch.testing.assert_close(a * step.x0 + s * step.eps, step.x_t)
        torch.testing.assert_close(a * step.eps - s * step.x0, model(step.x_t, step.t))
        assert step.sigma == pytest.approx(s / a)
        assert step.alpha_bar == pytest.approx(1 / (1 + step.sigma**2))


@every
def test_noise_is_asked_for_only_where_it_is_used(case: Case) -> None:
    schedule = Schedule(TO_ZERO)
    for step in run(case, gaussian(schedule, 0.0, 1.0), start_noise(1, 4), schedule, 4):
        assert (step.step_noise is not None) == (case in STOCHASTIC and step.index < 3)


@every
def test_the_callers_noise_is_left_alone(case: Case) -> None:
    schedule, noise = Schedule(SD), start_noise(1, 4, 8, 8, dtype=torch.float32)
    kept = noise.clone()
    taken = run(case, lively(schedule), noise, schedule, 5)
    assert torch.equal(noise, kept)
    again = run(case, lively(schedule), noise, schedule, 5)
    assert torch.equal(taken[-1].x_next, again[-1].x_next)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half_precision(case: Case, dtype: torch.dtype) -> None:
    schedule = Schedule(SD)
    for step in run(
        case, gaussian(schedule, 0.0, 0.5), start_noise(1, 4, dtype=dtype), schedule, 6
    ):
        assert step.x_next.dtype == step.x0.dtype == step.eps.dtype == dtype
        assert torch.isfinite(step.x_next).all()


@every
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_float32_costs_little(case: Case, kind: str) -> None:
    schedule = Schedule(replace(SD, prediction_type=kind))
    model, noise = lively(schedule), start_noise(1, 4, 8, 8)
    exact = run(case, model, noise, schedule, 50)[-1].x_next
    single = run(case, model, noise.float(), schedule, 50)[-1].x_next
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=5e-6)


@every
def test_an_image_does_not_depend_on_its_batch(case: Case) -> None:
    schedule = Schedule(SD)
    model = lively(schedule)

    def image(seeds: list[int]) -> Tensor:
        source = NoiseSource(seeds)

        def draw() -> Tensor:
            return source.draw((4, 8, 8))

        name, options, ladder = on_ladder(case, schedule, 8)
        return [*SAMPLERS[name].run(model, draw(), ladder, draw, **options)][-1].x_next

    batch = image([7, 8, 9])
    for i, seed in enumerate((7, 8, 9)):
        torch.testing.assert_close(batch[i : i + 1], image([seed]), rtol=0, atol=1e-5)


@every
def test_nothing_is_computed_before_it_is_asked_for(case: Case) -> None:
    schedule = Schedule(SD)
    model = Recorder(gaussian(schedule, 0.0, 1.0))
    name, options, ladder = on_ladder(case, schedule, 50)
    noise = start_noise(1, 4)
    steps = SAMPLERS[name].run(model, noise, ladder, noise.clone, **options)
    assert model.timesteps == []
    next(steps)
    assert 1 <= len(model.timesteps) <= 4


# How well they solve


def error_on_a_gaussian(case: Case, steps: int) -> float:
    """Against the exact solution for data from N(m, s^2), which keeps
    (x - m) / sqrt(s^2 + sigma^2) along the way."""
    schedule = Schedule(TO_ZERO)
    mean, std = 0.7, 0.5
    taken = run(case, gaussian(schedule, mean, std), start_noise(1, 1) + 2, schedule, steps)
    sigma = taken[0].sigma
    x = taken[0].x_t * math.hypot(sigma, 1)
    exact = mean + (x - mean) * std / math.hypot(std, sigma)
    return float((taken[-1].x_next - exact).abs())


def test_more_steps_and_higher_orders_are_better() -> None:
    assert error_on_a_gaussian(("ddim", {}), 100) < 0.65 * error_on_a_gaussian(("ddim", {}), 50)
    by_order = [error_on_a_gaussian(("lms", {"order": k}), 100) for k in (1, 2, 3, 4)]
    assert all(higher < lower / 2 for lower, higher in pairwise(by_order))
    assert by_order[0] == pytest.approx(error_on_a_gaussian(("ddim", {}), 100), rel=1e-6)
    on_karras = {"schedule": "karras"}
    for case in (("pndm", {}), ("pndm", {"prk": True}), ("heun", {}), ("dpmpp_2m", on_karras)):
        assert error_on_a_gaussian(case, 100) < by_order[0] / 5


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@deterministic
def test_solutions_do_not_depend_on_what_the_network_predicts(case: Case, kind: str) -> None:
    noise = start_noise(1, 4)
    eps_schedule, schedule = Schedule(SD), Schedule(replace(SD, prediction_type=kind))
    expected = run(case, gaussian(eps_schedule, 0.2, 0.5), noise, eps_schedule, 10)[-1].x_next
    actual = run(case, gaussian(schedule, 0.2, 0.5), noise, schedule, 10)[-1].x_next
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


# One by one


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ddim", {}), ("euler", {})),
        (("ddim", {}), ("lms", {"order": 1})),
        (("ddim", {}), ("euler_a", {"eta": 0.0})),
        (("ddpm", {}), ("ddim", {"eta": 1.0})),
        (("ddpm", {}), ("euler_a", {})),
        (("ddim", {"eta": 0.5}), ("euler_a", {"eta": 0.5})),
    ],
)
def test_these_are_the_same_in_other_coordinates(one: Case, other: Case, steps: int) -> None:
    schedule = Schedule(TO_ZERO)
    noise = start_noise(1, 4, 8, 8)
    expected = run(one, lively(schedule), noise, schedule, steps)
    for a, b in zip(run(other, lively(schedule), noise, schedule, steps), expected, strict=True):
        torch.testing.assert_close(a.x_next, b.x_next, rtol=0, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_keeps_the_noise_level_for_any_eta(eta: float) -> None:
    schedule = Schedule(SD)
    axes = as_axes(11)
    s = math.sqrt(1 - schedule.alpha_bar_at(schedule.timesteps(10)[0]))
    steps = SAMPLERS["ddim"].run(
        gaussian(schedule, 0.0, 0.0),
        s * next(axes),
        schedule.ladder(10),
        lambda: next(axes),
        eta=eta,
    )
    levels = [schedule.alpha_bar_at(t) for t in schedule.timesteps(10)[1:]]
    for step, alpha_bar in zip(steps, [*levels, schedule.final_alpha_bar], strict=True):
        assert float(step.x_next.square().sum()) == pytest.approx(1 - alpha_bar, rel=1e-9)


def variances(variance: str, std: float) -> list[tuple[float, float]]:
    """After every step: the variance of the sample, and alpha_bar there."""
    schedule = Schedule(SD)
    axes = as_axes(11)
    start = schedule.alpha_bar_at(schedule.timesteps(10)[0])
    steps = SAMPLERS["ddpm"].run(
        gaussian(schedule, 0.0, std),
        math.sqrt(start * std**2 + 1 - start) * next(axes),
        schedule.ladder(10),
        lambda: next(axes),
        variance=variance,
    )
    found = [float(step.x_next.square().sum()) for step in steps]
    return list(zip(found, map(schedule.alpha_bar_at, schedule.timesteps(10)[1:]), strict=False))


def test_ddpms_variances_are_right_for_the_data_that_the_paper_names() -> None:
    for found, alpha_bar in variances("fixed_small", std=0.0):
        assert found == pytest.approx(1 - alpha_bar, rel=1e-9)
    for found, _ in variances("fixed_large", std=1.0):
        assert found == pytest.approx(1, rel=1e-6)  # alpha_bar is float32 in the schedule


@pytest.mark.parametrize("prk", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 50])
def test_pndm_asks_the_network_as_often_as_it_says(steps: int, prk: bool) -> None:
    schedule = Schedule(SD)
    model = Recorder(gaussian(schedule, 0.0, 1.0))
    run(("pndm", {"prk": prk}), model, start_noise(1, 4), schedule, steps)
    extra = 3 * min(steps - 1, 3) if prk else min(steps - 1, 1)
    assert len(model.timesteps) == steps + extra
    assert sorted(set(schedule.timesteps(steps)) - set(model.timesteps)) == []


def test_pndm_ends_where_the_schedule_says() -> None:
    image = 0.8
    for config in (SD, TO_ZERO):
        schedule = Schedule(config)
        noise = start_noise(1, 4)
        first, *_, last = run(("pndm", {}), gaussian(schedule, image, 0.0), noise, schedule, 10)
        end = schedule.final_alpha_bar
        expected = math.sqrt(end) * image + math.sqrt(1 - end) * first.eps
        torch.testing.assert_close(last.x_next, expected)


def test_mixing_raw_v_predictions_loses_the_image() -> None:
    """Why pndm mixes eps, whatever the network predicts, unless it is told otherwise."""
    schedule = Schedule(replace(TO_ZERO, prediction_type="v_prediction"))
    model = gaussian(schedule, 0.7, 0.0)
    errors = {
        mix: float((run(("pndm", {"mix": mix}), model, start_noise(1, 4), schedule, 10)[-1].x_next
                    - 0.7).abs().max())
        for mix in ("eps", "output")
    }  # fmt: skip
    assert errors["eps"] < 1e-9
    assert errors["output"] > 1e-3


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_integrates_polynomials_exactly(order: int) -> None:
    nodes, end = [3.0, 3.9, 6.2, 9.5][:order], 2.2
    weights = lagrange_weights(nodes, end)
    for k in range(order):
        exact = (end ** (k + 1) - nodes[0] ** (k + 1)) / (k + 1)
        found = sum(w * node**k for w, node in zip(weights, nodes, strict=True))
        assert found == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_on_even_steps_has_the_weights_of_adams_and_bashforth(order: int) -> None:
    nodes = [5.0 + 0.5 * j for j in range(order)]
    expected = [-0.5 * w for w in ADAMS_BASHFORTH[order - 1]]
    assert lagrange_weights(nodes, 4.5) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_the_first_sigma_sample_is_noise_as_loud_as_the_schedule(spacing: str) -> None:
    schedule = Schedule(replace(SD, timestep_spacing=spacing))
    noise = start_noise(1, 4)
    first = run(("lms", {}), gaussian(schedule, 0.0, 1.0), noise, schedule, 10)[0]
    share = 1.0 if spacing == "leading" else math.sqrt(1 - first.alpha_bar)
    torch.testing.assert_close(first.x_t, share * noise)


def test_karras_sigmas() -> None:
    sigmas = karras(14.6, 0.03, 10)
    assert sigmas[0] == pytest.approx(14.6) and sigmas[-1] == pytest.approx(0.03)
    roots = [sigma ** (1 / 7) for sigma in sigmas]
    gaps = [a - b for a, b in pairwise(roots)]
    assert gaps == pytest.approx([gaps[0]] * 9)
    assert karras(14.6, 14.6, 1) == pytest.approx([14.6])
