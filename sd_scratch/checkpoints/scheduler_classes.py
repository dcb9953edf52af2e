"""diffusers' scheduler classes: the sampler here that each is, and what its keys mean."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sd_scratch.json_file import Fields

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


Options = dict[str, bool | int | float | str]


class Chosen(NamedTuple):
    """A sampler by our name, and its options."""

    sampler: str
    options: Options


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
    spacing: str = "linspace"
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
    options: Options = {} if order == 2 else {"order": order}
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
    options: Options = {}
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


def _lcm(fields: Fields) -> Chosen:
    _one_of(fields, "original_inference_steps", 50)
    _one_of(fields, "timestep_scaling", 10)
    return Chosen("lcm", {})


def _tcd(fields: Fields) -> Chosen:
    return _lcm(fields)._replace(sampler="tcd")


def _order(fields: Fields) -> Options:
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
        "deis", modifiers=("solver", "last"), thresholds=True, lacks=(FLOW,), choose=_deis
    ),
    "DPMSolverMultistepScheduler": Class(
        "dpmpp_2m",
        modifiers=SOLVER,
        zero_snr=True,
        thresholds=True,
        spacings=tuple(SIGMA_KEYS),
        ends=ENDS,
        lacks=(FLOW, END, CLIPPED),
        choose=_dpm,
    ),
    "DPMSolverSDEScheduler": Class("dpmpp_sde", betas=KDPM_BETAS, choose=_sde),
    "DPMSolverSinglestepScheduler": Class(
        "dpmpp_2s",
        modifiers=SOLVER,
        thresholds=True,
        asks=False,
        lacks=(FLOW, END, CLIPPED),
        choose=_dpm_single,
    ),
    "EulerAncestralDiscreteScheduler": Class("euler_a", zero_snr=True, spacings=()),
    "EulerDiscreteScheduler": Class(
        "euler", zero_snr=True, lacks=(END, "interpolation_type", "timestep_type")
    ),
    "HeunDiscreteScheduler": Class("heun", betas=KDPM_BETAS),
    "KDPM2AncestralDiscreteScheduler": Class("dpm2_a", modifiers=("whole",), betas=KDPM_BETAS),
    "KDPM2DiscreteScheduler": Class("dpm2", modifiers=("whole",), betas=KDPM_BETAS),
    "LCMScheduler": Class(
        "lcm", "leading", betas=SD_BETAS, zero_snr=True, thresholds=True, choose=_lcm
    ),
    "LMSDiscreteScheduler": Class("lms"),
    "PNDMScheduler": Class("pndm", "leading", alpha_to_one=False, choose=_pndm),
    "TCDScheduler": Class("tcd", "leading", betas=SD_BETAS, zero_snr=True, choose=_tcd),
    "UniPCMultistepScheduler": Class(
        "unipc",
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
