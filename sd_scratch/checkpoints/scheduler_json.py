"""`scheduler_config.json`: the schedule and the sampler that a folder names, read and written."""

from typing import Any

from sd_scratch.config import ScheduleConfig
from sd_scratch.json_file import Fields

SCHEDULE_FIXED: dict[str, tuple[object, ...]] = {
    "rescale_betas_zero_snr": (False,),
    "trained_betas": (None,),
    "thresholding": (False,),
}

# diffusers' scheduler classes: the sampler's name here, and what the class means by an absent key.
SCHEDULERS: dict[str, tuple[str, str, bool]] = {
    # class: (sampler, timestep_spacing, set_alpha_to_one)
    "DDIMScheduler": ("ddim", "leading", True),
    "DDPMScheduler": ("ddpm", "leading", True),
    "DPMSolverMultistepScheduler": ("dpmpp_2m", "linspace", True),
    "EulerAncestralDiscreteScheduler": ("euler_a", "linspace", True),
    "EulerDiscreteScheduler": ("euler", "linspace", True),
    "HeunDiscreteScheduler": ("heun", "linspace", True),
    "LMSDiscreteScheduler": ("lms", "linspace", True),
    "PNDMScheduler": ("pndm", "leading", False),
}
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "linspace", "trailing")


def schedule_config(fields: Fields) -> tuple[ScheduleConfig, str]:
    """`scheduler/scheduler_config.json`: the schedule, and the name of the sampler (one that this
    package does not have becomes PNDM, the sampler that Stable Diffusion 1.x ships)."""
    for key, allowed in SCHEDULE_FIXED.items():
        fields.only(key, *allowed)
    class_name = str(fields.data.get("_class_name", ""))
    sampler, spacing, alpha_to_one = SCHEDULERS.get(class_name, ("pndm", "leading", False))
    steps = fields.integer("num_train_timesteps", 1, 100_000, 1000)
    config = ScheduleConfig(
        num_train_timesteps=steps,
        beta_start=fields.number("beta_start", 0.0, 1.0, 0.0001),
        beta_end=fields.number("beta_end", 0.0, 1.0, 0.02),
        beta_schedule=fields.choice("beta_schedule", BETA_SCHEDULES, "linear"),
        prediction_type=fields.choice("prediction_type", PREDICTION_TYPES, "epsilon"),
        timestep_spacing=fields.choice("timestep_spacing", SPACINGS, spacing),
        steps_offset=fields.integer("steps_offset", 0, steps - 1, 0),
        set_alpha_to_one=fields.flag("set_alpha_to_one", alpha_to_one),
    )
    return config, sampler


def schedule_json(config: ScheduleConfig, sampler: str) -> dict[str, Any]:
    """The inverse of `schedule_config`."""
    classes = {name: class_name for class_name, (name, _, _) in SCHEDULERS.items()}
    return {
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
        "trained_betas": None,
    }
