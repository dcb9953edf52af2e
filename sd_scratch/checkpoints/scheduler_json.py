"""`scheduler_config.json`: the schedule and the sampler that a folder names, read and written."""

from typing import Any, NamedTuple

from sd_scratch.checkpoints.keys import SCHEDULER
from sd_scratch.config import ScheduleConfig
from sd_scratch.diffusion.prediction import PREDICTION_TYPES
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.diffusion.schedule import BETA_SCHEDULES
from sd_scratch.diffusion.spacing import SIGMA_SPACINGS, TIMESTEP_SPACINGS
from sd_scratch.json_file import Fields

STEPS_OFFSET = 1  # what diffusers' pipelines take where the file says nothing
# Spacings of sigmas, by the keys that ask for them.
SIGMA_KEYS = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
}


class Class(NamedTuple):
    """One of diffusers' scheduler classes: the sampler here, and what it means by an absent key."""

    sampler: str
    spacing: str
    alpha_to_one: bool = True


SCHEDULERS: dict[str, Class] = {
    "DDIMScheduler": Class("ddim", "leading"),
    "DDPMScheduler": Class("ddpm", "leading"),
    "DPMSolverMultistepScheduler": Class("dpmpp_2m", "linspace"),
    "EulerAncestralDiscreteScheduler": Class("euler_a", "linspace"),
    "EulerDiscreteScheduler": Class("euler", "linspace"),
    "HeunDiscreteScheduler": Class("heun", "linspace"),
    "LMSDiscreteScheduler": Class("lms", "linspace"),
    "PNDMScheduler": Class("pndm", "leading", alpha_to_one=False),
}
# What the variances of DDPM are called here. The logarithm of the small one is exponentiated again.
VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
}


class Scheduler(NamedTuple):
    """What a file says: the schedule, the sampler by our name, its options and its spacing."""

    schedule: ScheduleConfig
    sampler: str
    options: dict[str, str]
    spacing: str | None


def schedule_config(fields: Fields) -> Scheduler:
    """`scheduler/scheduler_config.json`.

    A class or a value that cannot be had is added to the warnings of `fields`; PNDM, the sampler that
    Stable Diffusion 1.x ships, stands in for a class. Raises ScratchError for a damaged file.
    """
    SCHEDULER.check(fields)
    kind = SCHEDULERS.get(str(fields.data.get("_class_name")))
    if kind is None:
        if "_class_name" in fields.data:
            fields.warn("_class_name", "is no sampler that is here: PNDM stands in for it")
        kind = SCHEDULERS["PNDMScheduler"]
    steps = fields.integer("num_train_timesteps", 1, 100_000, 1000)
    offset = fields.integer("steps_offset", 0, steps - 1, min(STEPS_OFFSET, steps - 1))
    spacing = fields.choice("timestep_spacing", tuple(TIMESTEP_SPACINGS), kind.spacing)
    if offset != STEPS_OFFSET and spacing == "leading" and steps > 1:
        fields.warn("steps_offset", "is followed, where diffusers' pipelines take 1")
    options, of_sigmas = _options(fields, kind.sampler), _spacing(fields, kind.sampler)
    if kind.sampler == "dpmpp_2m" and of_sigmas:
        spacing = "linspace"  # diffusers' class spaces such sigmas over the whole schedule
    betas = fields.data.get("trained_betas") is not None
    config = ScheduleConfig(
        num_train_timesteps=steps,
        beta_start=fields.number("beta_start", 0.0, 1.0, 0.0001),
        beta_end=fields.number("beta_end", 0.0, 1.0, 0.02),
        beta_schedule=fields.choice("beta_schedule", tuple(BETA_SCHEDULES), "linear"),
        prediction_type=fields.choice("prediction_type", PREDICTION_TYPES, "epsilon"),
        timestep_spacing=spacing,
        steps_offset=offset,
        set_alpha_to_one=fields.flag("set_alpha_to_one", kind.alpha_to_one),
        rescale_betas_zero_snr=fields.flag("rescale_betas_zero_snr", False),
        trained_betas=fields.numbers("trained_betas", 0.0, 1.0, steps) if betas else (),
    )
    return Scheduler(config, kind.sampler, options, of_sigmas)


def _options(fields: Fields, sampler: str) -> dict[str, str]:
    """The options of the sampler that the file asks for; warns of those that it has not."""
    options: dict[str, str] = {}
    variance = fields.data.get("variance_type")
    if sampler == "ddpm" and variance in VARIANCES:
        if VARIANCES[variance] != "fixed_small":
            options["variance"] = VARIANCES[variance]
    elif variance is not None:
        fields.warn("variance_type", "is not supported and not followed")
    if fields.data.get("algorithm_type") not in (None, "dpmsolver++"):
        fields.warn("algorithm_type", "is not supported: dpmsolver++ stands in for it")
    return options


def _spacing(fields: Fields, sampler: str) -> str | None:
    """The spacing of sigmas that the file asks for; warns of one that cannot be had."""
    wanted = [key for key in SIGMA_KEYS if fields.data.get(key) not in (None, False)]
    for key in wanted:
        if fields.flag(key, False) and SIGMA_KEYS[key] in SIGMA_SPACINGS:
            if SAMPLERS[sampler].sigma_space:
                return SIGMA_KEYS[key]
            fields.warn(key, f"is not followed: {sampler} has no sigmas to be spaced")
        else:
            fields.warn(key, "is not supported and not followed")
    return None


def schedule_json(scheduler: Scheduler) -> dict[str, Any]:
    """The inverse of `schedule_config`."""
    config, sampler, options, spacing = scheduler
    classes = {kind.sampler: class_name for class_name, kind in SCHEDULERS.items()}
    data = {
        "_class_name": classes.get(sampler, "PNDMScheduler"),
        "beta_end": config.beta_end,
        "beta_schedule": config.beta_schedule,
        "beta_start": config.beta_start,
        "clip_sample": False,
        "num_train_timesteps": config.num_train_timesteps,
        "prediction_type": config.prediction_type,
        "set_alpha_to_one": config.set_alpha_to_one,
        "skip_prk_steps": True,
        "steps_offset": config.steps_offset,
        "timestep_spacing": config.timestep_spacing,
        "trained_betas": list(config.trained_betas) or None,
    }
    data |= {key: True for key, name in SIGMA_KEYS.items() if name == spacing}
    if "variance" in options:
        data["variance_type"] = options["variance"]
    if config.rescale_betas_zero_snr:
        data["rescale_betas_zero_snr"] = True
    return data
