"""`scheduler_config.json`: the schedule and the sampler that a folder names, read and written."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sd_scratch.checkpoints.keys import SCHEDULER
from sd_scratch.config import ScheduleConfig
from sd_scratch.diffusion.prediction import PREDICTION_TYPES
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.diffusion.schedule import BETA_SCHEDULES, Schedule
from sd_scratch.diffusion.spacing import TIMESTEP_SPACINGS, Spacing, find_spacing
from sd_scratch.errors import ScratchError
from sd_scratch.json_file import Fields

STEPS_OFFSET = 1  # what diffusers' pipelines take where the file says nothing
# Spacings of sigmas, by the keys that ask for them.
SIGMA_KEYS = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
    "use_lu_lambdas": "exponential",
}
OLD_BETAS = (0.0001, 0.02, "linear")
KDPM_BETAS = (0.00085, 0.012, "linear")
SD_BETAS = (0.00085, 0.012, "scaled_linear")


class Chosen(NamedTuple):
    """A sampler by our name, and its options."""

    sampler: str
    options: dict[str, bool | int | float | str]


FLOW, END, CLIPPED = "use_flow_sigmas", "final_sigmas_type", "lambda_min_clipped"
RANGE = ("sigma_max", "sigma_min")


class Class(NamedTuple):
    """One of diffusers' scheduler classes: the sampler here, and what it means by an absent key.

    Attributes:
        spacing: of timesteps, where the file says nothing, or where the class does not ask (`asks`).
        alpha_to_one: where DDIM and PNDM end, likewise.
        modifiers: what its spacings do otherwise than others', see `sd_scratch.diffusion.spacing.MODIFIERS`.
        betas: beta_start, beta_end and beta_schedule, where the file says nothing.
        zero_snr: whether it knows rescale_betas_zero_snr.
        thresholds: whether it knows thresholding.
        spacings: the keys for sigmas that it knows, of `SIGMA_KEYS`.
        ends: the values of final_sigmas_type that can be had.
        lacks: the keys that it knows and of which not every value can be had.
        choose: reads the class' own keys; says which values cannot be had.
    """

    sampler: str
    spacing: str
    alpha_to_one: bool = True
    modifiers: tuple[str, ...] = ()
    betas: tuple[float, float, str] = OLD_BETAS
    zero_snr: bool = False
    thresholds: bool = False
    asks: bool = True
    spacings: tuple[str, ...] = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    ends: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    choose: Callable[[Fields], Chosen] | None = None


# Solvers that a file of one class may name for another, and that mean its own default there.
STRANGERS = ("midpoint", "heun", "logrho", "bh1", "bh2")


def _dpm(fields: Fields) -> Chosen:
    stochastic = _one_of(fields, "algorithm_type", "dpmsolver++", "deis", "sde-dpmsolver++")
    heun = _one_of(fields, "solver_type", "midpoint", "heun", *STRANGERS) == "heun"
    if fields.data.get("final_sigmas_type") in ENDS:
        _one_of(fields, "euler_at_final", False)
        _one_of(fields, "lower_order_final", True)
    sde = stochastic == "sde-dpmsolver++"
    order = _one_of(fields, "solver_order", 2, *((3,) if not sde else ()))
    if order == 3:
        lower = fields.flag("lower_order_final", True)
        solver = "heun" if heun else "midpoint"
        return Chosen("dpmpp_3m_sde", {"eta": 0.0, "solver": solver, "lower": lower})
    if sde or heun:
        eta = 1.0 if sde else 0.0
        return Chosen("dpmpp_2m_sde", {"eta": eta, "solver": "heun" if heun else "midpoint"})
    return Chosen("dpmpp_2m", {})


def _dpm_single(fields: Fields) -> Chosen:
    _one_of(fields, "algorithm_type", "dpmsolver++", "deis")
    solver = _one_of(fields, "solver_type", "midpoint", "heun", *STRANGERS)
    order = _one_of(fields, "solver_order", 2, *((3,) if solver != "heun" else ()))
    options: dict[str, bool | int | float | str] = {} if order == 2 else {"order": order}
    return Chosen("dpmpp_2s", options | ({"solver": "heun"} if solver == "heun" else {}))


def _unipc(fields: Fields) -> Chosen:
    _one_of(fields, "lower_order_final", True)
    solver = _one_of(fields, "solver_type", "bh2", "bh1", *STRANGERS)
    return Chosen("unipc", _order(fields) | ({"variant": "bh1"} if solver == "bh1" else {}))


def _deis(fields: Fields) -> Chosen:
    _one_of(fields, "lower_order_final", True)
    _one_of(fields, "solver_type", "logrho", *STRANGERS)
    _one_of(fields, "algorithm_type", "deis", "dpmsolver", "dpmsolver++")
    return Chosen("deis", _order(fields))


def _pndm(fields: Fields) -> Chosen:
    options: dict[str, bool | int | float | str] = {}
    if not fields.flag("skip_prk_steps", False):
        options["prk"] = True
    if "prk" in options or fields.data.get("prediction_type", "epsilon") != "epsilon":
        options["mix"] = "output"  # as diffusers combines answers, and rounds on the way to them
    return Chosen("pndm", options)


def _ddpm(fields: Fields) -> Chosen:
    variance = _one_of(fields, "variance_type", *VARIANCES)
    large = VARIANCES[str(variance)] == "fixed_large"
    if large and fields.data.get("timestep_spacing") != "linspace":
        why = (
            "is followed, but for the noise that diffusers adds after the last step and leaves in the picture:"
            " pictures will be others than there"
        )
        fields.warn("variance_type", why)
    return Chosen("ddpm", {"variance": "fixed_large"} if large else {})


def _sde(fields: Fields) -> Chosen:
    why = "draws its noise in another way here: pictures will be others than in diffusers"
    fields.warn("_class_name", why)
    return Chosen("dpmpp_sde", {})


def _distilled(sampler: str) -> Callable[[Fields], Chosen]:
    def choose(fields: Fields) -> Chosen:
        _one_of(fields, "original_inference_steps", 50)
        _one_of(fields, "timestep_scaling", 10)
        return Chosen(sampler, {})

    return choose


def _order(fields: Fields) -> dict[str, bool | int | float | str]:
    order = _one_of(fields, "solver_order", 2, 1, 3)
    return {} if order == 2 else {"order": order}


def _one_of(fields: Fields, key: str, default: Any, *others: Any) -> Any:
    """The key's value, or the default; a value that is none of these is lacking."""
    value = fields.data.get(key, default)
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is type(default) and value in (default, *others):
        return value
    if value is not None:
        fields.lack(key, "is not supported")
    return default


SOLVER = ("solver",)
ENDS = ("sigma_min",)

DDIM = Class("ddim", "leading", modifiers=("stride",), zero_snr=True, thresholds=True)
DDPM = Class("ddpm", "leading", zero_snr=True, thresholds=True, choose=_ddpm)
SCHEDULERS: dict[str, Class] = {
    "DDIMScheduler": DDIM,
    "DDIMParallelScheduler": DDIM,
    "DDPMScheduler": DDPM,
    "DDPMParallelScheduler": DDPM,
    "DEISMultistepScheduler": Class(
        "deis",
        "linspace",
        modifiers=("solver", "last"),
        thresholds=True,
        lacks=(FLOW,),
        choose=_deis,
    ),
    "DPMSolverMultistepScheduler": Class(
        "dpmpp_2m",
        "linspace",
        modifiers=SOLVER,
        zero_snr=True,
        thresholds=True,
        spacings=tuple(SIGMA_KEYS),
        ends=ENDS,
        lacks=(FLOW, END, CLIPPED),
        choose=_dpm,
    ),
    "DPMSolverSDEScheduler": Class("dpmpp_sde", "linspace", betas=KDPM_BETAS, choose=_sde),
    "DPMSolverSinglestepScheduler": Class(
        "dpmpp_2s",
        "linspace",
        modifiers=SOLVER,
        thresholds=True,
        asks=False,
        lacks=(FLOW, END, CLIPPED),
        choose=_dpm_single,
    ),
    "EulerAncestralDiscreteScheduler": Class("euler_a", "linspace", zero_snr=True, spacings=()),
    "EulerDiscreteScheduler": Class(
        "euler", "linspace", zero_snr=True, lacks=(END, "interpolation_type", "timestep_type")
    ),
    "HeunDiscreteScheduler": Class("heun", "linspace", betas=KDPM_BETAS),
    "KDPM2AncestralDiscreteScheduler": Class(
        "dpm2_a", "linspace", modifiers=("whole",), betas=KDPM_BETAS
    ),
    "KDPM2DiscreteScheduler": Class("dpm2", "linspace", modifiers=("whole",), betas=KDPM_BETAS),
    "LCMScheduler": Class(
        "lcm", "leading", betas=SD_BETAS, zero_snr=True, thresholds=True, choose=_distilled("lcm")
    ),
    "LMSDiscreteScheduler": Class("lms", "linspace"),
    "PNDMScheduler": Class("pndm", "leading", alpha_to_one=False, choose=_pndm),
    "TCDScheduler": Class(
        "tcd", "leading", betas=SD_BETAS, zero_snr=True, choose=_distilled("tcd")
    ),
    "UniPCMultistepScheduler": Class(
        "unipc",
        "linspace",
        modifiers=SOLVER,
        zero_snr=True,
        thresholds=True,
        ends=ENDS,
        lacks=(FLOW, END, "disable_corrector", "predict_x0", "solver_p"),
        choose=_unipc,
    ),
}
# The classes of samplers that are not the first of their class.
CLASS_OF = {
    "dpmpp_2m_sde": "DPMSolverMultistepScheduler",
    "dpmpp_3m_sde": "DPMSolverMultistepScheduler",
}

# What the variances of DDPM are called here. The logarithm of the small one is exponentiated again.
VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
}


class Scheduler(NamedTuple):
    """What a file says: the schedule, the sampler by our name, its options and its spacing, and in a line
    each what of this cannot be had, so that the sampler makes other pictures."""

    schedule: ScheduleConfig
    sampler: str
    options: dict[str, bool | int | float | str]
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


def schedule_json(scheduler: Scheduler) -> dict[str, Any]:
    """The inverse of `schedule_config`."""
    config, sampler, options, written, _ = scheduler
    classes = {kind.sampler: name for name, kind in reversed(SCHEDULERS.items())} | CLASS_OF
    data = {
        "_class_name": classes.get(sampler, "PNDMScheduler"),
        "beta_end": config.beta_end,
        "beta_schedule": config.beta_schedule,
        "beta_start": config.beta_start,
        "clip_sample": False,
        "num_train_timesteps": config.num_train_timesteps,
        "prediction_type": config.prediction_type,
        "set_alpha_to_one": config.set_alpha_to_one,
        "skip_prk_steps": not options.get("prk", False),
        "steps_offset": config.steps_offset,
        "timestep_spacing": config.timestep_spacing,
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
        ratio, largest = config.dynamic_thresholding_ratio, config.sample_max_value
        data |= {
            "thresholding": True,
            "dynamic_thresholding_ratio": ratio,
            "sample_max_value": largest,
        }
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
