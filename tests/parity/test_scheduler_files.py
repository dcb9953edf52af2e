"""Every scheduler class that Stable Diffusion 1.x and 2.x come with, times its options: a file of it makes the
samples that diffusers' class makes."""

from typing import Any

import diffusers
import pytest
import torch

from sd_scratch.checkpoints.scheduler_json import Scheduler, schedule_config, schedule_json
from sd_scratch.diffusion.samplers import get_sampler
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.json_file import Fields
from tests.denoisers import lively

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
LINSPACE, TRAILING = {"timestep_spacing": "linspace"}, {"timestep_spacing": "trailing"}
V, X0 = {"prediction_type": "v_prediction"}, {"prediction_type": "sample"}
ZERO = V | TRAILING | {"rescale_betas_zero_snr": True}
KARRAS, EXPONENTIAL, BETA = (
    {f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta")
)
LAST = {"final_sigmas_type": "sigma_min"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
SIGMAS = (LEADING, LINSPACE, TRAILING, KARRAS, EXPONENTIAL, BETA | LEADING, LEADING | V)

OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "DDIM": (LEADING, TRAILING, LEADING | V, LEADING | X0, LEADING | {"set_alpha_to_one": False}),
    "DDIMParallel": (LEADING, TRAILING | V),
    "DDPM": (LEADING, TRAILING | V, {"variance_type": "fixed_small_log"} | LEADING),
    "PNDM": (
        LEADING | {"skip_prk_steps": True},
        LEADING,
        LEADING | V | {"skip_prk_steps": True},
        LEADING | {"skip_prk_steps": True, "set_alpha_to_one": True},
    ),
    "LMSDiscrete": SIGMAS,
    "EulerDiscrete": (*SIGMAS, LEADING | X0),
    "EulerAncestralDiscrete": (LEADING, LINSPACE, TRAILING, LEADING | V),
    "HeunDiscrete": (*SIGMAS, {"beta_schedule": "linear"}),
    "KDPM2Discrete": SIGMAS,
    "KDPM2AncestralDiscrete": SIGMAS,
    "DPMSolverMultistep": (
        *SIGMAS,
        LEADING | X0,
        LAST,
        LAST | KARRAS,
        LAST | LEADING | {"solver_order": 3},
        {"solver_type": "heun"},
        {"solver_type": "bh2"},
        {"solver_order": 3},
        {"solver_order": 3, "solver_type": "heun"} | LEADING,
        {"solver_order": 3, "lower_order_final": False} | KARRAS,
        SDE,
        SDE | {"solver_type": "heun"} | KARRAS,
        {"euler_at_final": True},
        ZERO,
    ),
    "DPMSolverSinglestep": (
        {},
        LEADING,
        {"solver_order": 3},
        {"solver_type": "heun"} | V,
        KARRAS,
        EXPONENTIAL,
    ),
    "UniPCMultistep": (
        *SIGMAS,
        LEADING | X0,
        {"solver_order": 1},
        {"solver_order": 3} | KARRAS,
        {"solver_type": "bh1"} | LAST,
        {"solver_type": "bh1", "solver_order": 1} | LAST | LEADING,
        {"solver_type": "heun"},
        LAST | KARRAS,
        ZERO,
    ),
    "DEISMultistep": (*SIGMAS, {"solver_order": 1}, {"solver_order": 3}, LEADING | X0),
    "LCM": ({}, V, TRAILING, {"beta_schedule": "linear"}),
    "TCD": ({}, V, {"set_alpha_to_one": False}, {"steps_offset": 1}),
}
# What a file of any class may say; what a class does not know, it is not asked for.
EVERYWHERE: tuple[dict[str, Any], ...] = (
    {"num_train_timesteps": 500},
    {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9},
    {"trained_betas": [1e-4 + 1e-5 * t for t in range(1000)]},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"steps_offset": 0} | LEADING,
    LEADING | X0,
    *(ZERO | spacing for spacing in (LEADING, LINSPACE, TRAILING)),
    *(LEADING, LINSPACE, TRAILING, KARRAS, EXPONENTIAL, BETA),
    *({key: True} for key in ("use_lu_lambdas", "use_flow_sigmas", "clip_sample")),
    *({"variance_type": v} for v in ("fixed_large", "fixed_large_log", "learned")),
    *({"algorithm_type": a} for a in ("dpmsolver", "sde-dpmsolver", "sde-dpmsolver++", "deis")),
    *({"solver_order": order} for order in (1, 3, 4)),
    *({"solver_type": solver} for solver in ("midpoint", "heun", "logrho", "bh1", "bh2")),
    *({"lower_order_final": False} | end for end in ({}, LAST)),
    *(LAST, LAST | {"euler_at_final": True}, LAST | KARRAS),
    *({"sigma_max": 20.0}, {"sigma_min": 0.1}, {"interpolation_type": "log_linear"}),
    *({"timestep_type": "continuous"}, {"predict_x0": False}, {"disable_corrector": [0]}),
    *({"original_inference_steps": 40}, {"timestep_scaling": 5.0}, {"skip_prk_steps": True}),
    *({"set_alpha_to_one": one} for one in (True, False)),
    {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    *({"lambda_min_clipped": -5.1}, {"sigma_max": 20.0} | KARRAS, {"variance_type": "fixed_large"}),
)
FEW, MANY = 5, 16  # diffusers' solvers go by other rules from 15 steps on
CASES = [
    pytest.param(name, options, steps, id="-".join([name, str(steps), *map(str, options.values())]))
    for name, several in OPTIONS.items()
    for options in several
    for steps in ((FEW, MANY) if {"solver_order", "final_sigmas_type"} & {*options} else (FEW,))
]
NOISE = [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(40)]


def theirs(scheduler: Any, steps: int, schedule: Schedule) -> torch.Tensor:
    """The pipelines' own loop."""
    model = lively(schedule)
    draws = iter(NOISE)
    module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
    if hasattr(module, "randn_tensor"):
        module.randn_tensor = lambda *args, **kwargs: next(draws)
    scheduler.set_timesteps(steps)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(99))
    x = x * scheduler.init_noise_sigma
    extra = {"eta": 0.3} if isinstance(scheduler, diffusers.TCDScheduler) else {}
    for t in scheduler.timesteps:
        x_t = scheduler.scale_model_input(x, t)
        x = scheduler.step(model(x_t, float(t)), t, x, **extra).prev_sample
    return x


def ours(said: Scheduler, steps: int, schedule: Schedule) -> torch.Tensor:
    sampler = get_sampler(said.sampler)
    ladder = sampler.ladder(schedule, steps, said.spacing)
    draws = iter(NOISE)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(99)) * ladder.noise_scale
    x = torch.as_tensor(x, dtype=torch.float32)
    *_, last = sampler.run(lively(schedule), x, ladder, lambda: next(draws), **said.options)
    return last.x_next


@pytest.mark.parametrize("name", [*OPTIONS, "DDPMParallel"])
def test_a_file_is_obeyed_or_what_is_not_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 7 steps, which do not divide 1000."""
    reference: Any = getattr(diffusers, f"{name}Scheduler")
    module = __import__(reference.__module__, fromlist=["randn_tensor"])
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", module.randn_tensor)  # put back afterwards
    wrong = []
    slow = name.startswith("KDPM2")  # a second for each, in diffusers
    for options in EVERYWHERE[:9] if slow else EVERYWHERE:
        written = {"_class_name": f"{name}Scheduler", **SD, **options}
        fields = Fields(written, "file", [])
        said = schedule_config(fields)
        if fields.warnings:
            assert any(key in line for line in fields.warnings for key in options)
            continue
        schedule = Schedule(said.schedule)
        try:
            scheduler = reference.from_config(
                {"steps_offset": 1} | written | {"clip_sample": False}
            )
            expected = theirs(scheduler, 7, schedule)
        except (ValueError, NotImplementedError):  # what diffusers refuses
            continue
        sample = ours(said, 7, schedule)
        assert sample.isfinite().all()
        if not expected.isfinite().all():  # infinite times zero in diffusers' last step
            continue
        off = float((sample - expected).abs().max() / expected.abs().max())
        if not off <= 1e-4:
            wrong.append((options, off))
    assert not wrong


@pytest.mark.parametrize(("name", "options", "steps"), CASES)
def test_a_file_is_obeyed(
    name: str, options: dict[str, Any], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference: Any = getattr(diffusers, f"{name}Scheduler")
    module = __import__(reference.__module__, fromlist=["randn_tensor"])
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", module.randn_tensor)  # put back afterwards
    # Which diffusers' pipelines of latents do to every scheduler that clips.
    config = SD | options | ({"clip_sample": False} if name[:2] == "DD" else {})
    scheduler = reference.from_config(config)
    fields = Fields({"_class_name": f"{name}Scheduler", **SD, **options}, "file", [])
    said = schedule_config(fields)
    assert not fields.warnings
    expected = theirs(scheduler, steps, Schedule(said.schedule))
    sample = ours(said, steps, Schedule(said.schedule))
    assert float((sample - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    again = schedule_config(Fields(schedule_json(said), "again", []))
    assert again == said
