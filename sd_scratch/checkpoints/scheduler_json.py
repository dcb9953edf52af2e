"""`scheduler_config.json`: the schedule and the sampler that a folder names, read and written."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from sd_scratch.checkpoints.keys import SCHEDULER
from sd_scratch.checkpoints.scheduler_classes import (
    CLASS_OF,
    CLIPPED,
    END,
    RANGE,
    SCHEDULERS,
    SIGMA_KEYS,
    Chosen,
    Class,
    Options,
)
from sd_scratch.config import ScheduleConfig
from sd_scratch.diffusion.prediction import PREDICTION_TYPES
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.diffusion.schedule import BETA_SCHEDULES, Schedule
from sd_scratch.diffusion.spacing import TIMESTEP_SPACINGS, Spacing, find_spacing
from sd_scratch.errors import ScratchError
from sd_scratch.json_file import Fields

STEPS_OFFSET = 1  # what diffusers' pipelines take where the file says nothing


class Scheduler(NamedTuple):
    """What a file says: the schedule, the sampler by our name, its options and its spacing, and in a line
    each what of this cannot be had, so that the sampler makes other pictures."""

    schedule: ScheduleConfig
    sampler: str
    options: Options
    spacing: str | None
    lacks: tuple[str, ...] = ()


def schedule_config(fields: Fields) -> Scheduler:
    """`scheduler/scheduler_config.json`.

    A class or a value that cannot be had is added to the warnings of `fields`, and to what the file lacks
    where pictures would be others; PNDM, the sampler that Stable Diffusion 1.x ships, stands in for a class.
    Raises ScratchError for a damaged file.
    """
    named = fields.data.get("_class_name")
    kind = SCHEDULERS.get(str(named))
    if kind is None and named is not None:
        fields.lack("_class_name", "is no sampler that is here")
    if kind is None:
        kind = SCHEDULERS["PNDMScheduler"]._replace(choose=None)
    spaced = any(fields.data.get(key) for key in kind.spacings)
    SCHEDULER.check(fields, {*SCHEDULER.lacking} - {*kind.lacks, *(RANGE if spaced else ())})
    chosen = kind.choose(fields) if kind.choose else Chosen(kind.sampler, {})
    config = _schedule(fields, kind)
    _warn(fields, kind, config)
    return Scheduler(config, *chosen, _spacing(fields, kind, config), tuple(fields.lacks))


def _schedule(fields: Fields, kind: Class) -> ScheduleConfig:
    steps = fields.integer("num_train_timesteps", 1, 100_000, 1000)
    betas = fields.data.get("trained_betas") is not None
    start, end, beta_schedule = kind.betas
    spacing = fields.choice("timestep_spacing", tuple(TIMESTEP_SPACINGS), kind.spacing)
    # TCD's way ends at t = 0, whatever the file says.
    to_one = kind.sampler != "tcd" and fields.flag("set_alpha_to_one", kind.alpha_to_one)
    return ScheduleConfig(
        num_train_timesteps=steps,
        beta_start=fields.number("beta_start", 0.0, 1.0, start),
        beta_end=fields.number("beta_end", 0.0, 1.0, end),
        beta_schedule=fields.choice("beta_schedule", tuple(BETA_SCHEDULES), beta_schedule),
        prediction_type=fields.choice("prediction_type", PREDICTION_TYPES, "epsilon"),
        timestep_spacing=spacing if kind.asks else kind.spacing,
        steps_offset=fields.integer("steps_offset", 0, steps - 1, min(STEPS_OFFSET, steps - 1)),
        set_alpha_to_one=to_one,
        rescale_betas_zero_snr=fields.flag("rescale_betas_zero_snr", False),
        trained_betas=fields.numbers("trained_betas", 0.0, 1.0, steps) if betas else (),
        **_thresholding(fields, kind),
    )


def _thresholding(fields: Fields, kind: Class) -> dict[str, Any]:
    if not fields.flag("thresholding", False):
        return {}
    if not kind.thresholds:
        why = f"has no effect: {kind.sampler}'s class does not threshold, in diffusers neither"
        fields.warn("thresholding", why)
        return {}
    return {
        "thresholding": True,
        "dynamic_thresholding_ratio": fields.number("dynamic_thresholding_ratio", 0.0, 1.0, 0.995),
        "sample_max_value": fields.number("sample_max_value", 0.0, 1e4, 1.0),
    }


def _warn(fields: Fields, kind: Class, config: ScheduleConfig) -> None:
    """Warn of what is done here, and in diffusers is not."""
    leading = config.timestep_spacing == "leading" and SAMPLERS[kind.sampler].spacing is None
    if config.steps_offset != STEPS_OFFSET and leading and config.num_train_timesteps > 1:
        why = "is followed, where diffusers' pipelines take 1: pictures will be others than there"
        fields.warn("steps_offset", why)
    if config.rescale_betas_zero_snr and not kind.zero_snr:
        why = (
            f"is followed, which {kind.sampler}'s class in diffusers does not know: pictures will be others than"
            " there"
        )
        fields.warn("rescale_betas_zero_snr", why)
    if config.beta_schedule == "squaredcos_cap_v2" and not config.trained_betas:
        _warn_of_the_cosine(fields, kind, config)
    if kind.sampler == "pndm" and config.timestep_spacing != "leading":
        why = "is followed; diffusers' PNDM steps past its timesteps where the steps do not divide 1000"
        fields.warn("timestep_spacing", why)
    if CLIPPED in kind.lacks and str(fields.data.get("variance_type")).startswith("learned"):
        fields.lack("variance_type", "is not supported")
    lowest = fields.data.get(CLIPPED)
    if CLIPPED in kind.lacks and isinstance(lowest, int | float) and lowest > _last_lambda(config):
        fields.lack(CLIPPED, "is not supported, and this schedule goes beyond it")


def _last_lambda(config: ScheduleConfig) -> float:
    """The logarithm of the signal over the noise at the last timestep; of a schedule that no model can have,
    which is said elsewhere, minus infinity."""
    try:
        return -math.log(Schedule(config).sigmas[-1])
    except ScratchError:
        return -math.inf


def _warn_of_the_cosine(fields: Fields, kind: Class, config: ScheduleConfig) -> None:
    """Its first sigma is 20,000, beside which diffusers' float32 loses the levels below."""
    sigmas = any(fields.data.get(key) for key in SIGMA_KEYS)
    if kind.sampler == "dpm2_a" and (sigmas or config.timestep_spacing != "leading"):
        fields.warn(
            "beta_schedule",
            "is followed; diffusers' KDPM2 ancestral rounds its levels away beside a first sigma of 20,000, and"
            " its picture differs by some per cent, or is none",
        )
    elif "solver" in kind.modifiers and fields.data.get("use_karras_sigmas"):
        fields.warn(
            "beta_schedule",
            "is followed; diffusers asks its network at other timesteps or fails, with Karras' sigmas up to 20,000",
        )


def _spacing(fields: Fields, kind: Class, config: ScheduleConfig) -> str | None:
    """The sampler's spacing, where it is not the schedule's; warns of one that cannot be had."""
    if SAMPLERS[kind.sampler].spacing is not None:
        return SAMPLERS[kind.sampler].spacing
    name, modifiers = "", {*kind.modifiers} - {"whole"}
    if config.timestep_spacing == "leading":
        modifiers.discard("stride")  # the next timestep is a stride below
    for key in SIGMA_KEYS:
        if fields.data.get(key) in (None, False):
            continue
        fields.flag(key, False)
        if not SAMPLERS[kind.sampler].sigma_space:
            fields.warn(key, f"is not followed: {kind.sampler} has no sigmas to be spaced")
        elif key not in kind.spacings:
            fields.warn(key, f"is not followed: {kind.sampler}'s class does not know it")
        elif not name:
            name = SIGMA_KEYS[key]
            modifiers |= {"whole"} if key == "use_lu_lambdas" else set()
    if name == "karras" and "whole" in kind.modifiers:
        modifiers.add("whole")
    end = fields.data.get(END, "zero")
    if end in kind.ends:
        modifiers.add("last")
    elif end != "zero" and "last" not in modifiers:
        if END in kind.lacks:
            fields.lack(END, "is not supported")
        else:
            fields.warn(END, f"has no effect: {kind.sampler}'s class does not know it")
    if not name and not modifiers:
        return None
    return str(Spacing(name or config.timestep_spacing, frozenset(modifiers)))


# Keys that are fields of `ScheduleConfig` by the same name.
SAME = (
    *("beta_end", "beta_schedule", "beta_start", "num_train_timesteps", "prediction_type"),
    *("set_alpha_to_one", "steps_offset", "timestep_spacing"),
)
THRESHOLDS = ("thresholding", "dynamic_thresholding_ratio", "sample_max_value")


def schedule_json(scheduler: Scheduler) -> dict[str, Any]:
    """The inverse of `schedule_config`."""
    config, sampler, options, written, _ = scheduler
    classes = {kind.sampler: name for name, kind in reversed(SCHEDULERS.items())} | CLASS_OF
    data = {
        "_class_name": classes.get(sampler, "PNDMScheduler"),
        **{key: getattr(config, key) for key in SAME},
        "clip_sample": False,
        "skip_prk_steps": not options.get("prk", False),
        "trained_betas": list(config.trained_betas) or None,
    }
    if written is not None:
        spacing = find_spacing(written)
        lu = spacing.name == "exponential" and spacing.has("whole")
        keys = {name: key for key, name in reversed(SIGMA_KEYS.items())} | (
            {"exponential": "use_lu_lambdas"} if lu else {}
        )
        data |= {keys[spacing.name]: True} if spacing.name in keys else {}
        if spacing.has("last") and sampler != "deis":
            data["final_sigmas_type"] = "sigma_min"
    if config.thresholding:
        data |= {key: getattr(config, key) for key in THRESHOLDS}
    if config.rescale_betas_zero_snr:
        data["rescale_betas_zero_snr"] = True
    return data | _options_json(sampler, options)


def _options_json(sampler: str, options: Mapping[str, bool | int | float | str]) -> dict[str, Any]:
    """The keys of a class for a sampler's options."""
    data: dict[str, Any] = {}
    if "variance" in options:
        data["variance_type"] = options["variance"]
    if "order" in options:
        data["solver_order"] = options["order"]
    if "variant" in options or "solver" in options:
        data["solver_type"] = options.get("variant", options.get("solver"))
    if sampler == "dpmpp_3m_sde":
        data |= {"solver_order": 3, "lower_order_final": options.get("lower", False)}
    if sampler == "dpmpp_2m_sde" and options.get("eta", 1.0) != 0.0:
        data["algorithm_type"] = "sde-dpmsolver++"
    return data
