"""Other tools' names of samplers: A1111's, ComfyUI's, stable-diffusion.cpp's, k-diffusion's, diffusers'."""

import re

from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.diffusion.spacing import OWN, SPACINGS, find_spacing

# What is not the same letters but for case, signs, "ancestral" and "scheduler".
OTHERS = {
    "plms": "pndm",
    "dpmsolvermultistep": "dpmpp_2m",
    "dpmsolverpp2m": "dpmpp_2m",
    "dpmsolversde": "dpmpp_sde",
    "dpmsolversinglestep": "dpmpp_2s",
    "kdpm2": "dpm2",
    "kdpm2a": "dpm2_a",
    "unipcmultistep": "unipc",
    "deismultistep": "deis",
    "unipcbh2": "unipc",
}
# The same of schedules.
OTHER_SCHEDULES = {"alignyoursteps": "ays", "normal": "linspace", "uniform": "linspace"}

# A1111's schedules by our names, the usual one of equals last. Its sigmas are spread over the whole schedule.
A1111_SCHEDULES = {
    "Normal": "linspace",
    "Uniform": "linspace",
    "Simple": "simple",
    "Karras": "karras+all",
    "Polyexponential": "exponential+all",  # its rho is 1
    "Exponential": "exponential+all",
    "Beta": "beta+all",
    "SGM Uniform": "sgm_uniform",
    "KL Optimal": "kl_optimal+all+cut+last",
    "Align Your Steps": "ays",
    "DDIM": "ddim_uniform",
}
# What its samplers that are not k-diffusion's have, whichever schedule is chosen; before 1.6 that was another.
A1111_OWN = {
    "ddim": "ddim_uniform+end",
    "pndm": "ddim_uniform+end",
    "unipc": "linspace+cut+last+unit",
}
# What its "Automatic" is, where it is not "Uniform".
A1111_AUTOMATIC = {
    **dict.fromkeys(("dpm2", "dpm2_a", "dpmpp_2m", "dpmpp_2s_a", "dpmpp_sde"), "Karras"),
    **dict.fromkeys(("dpmpp_2m_sde", "dpmpp_3m_sde"), "Exponential"),
}
# Samplers that take one sigma more and leave out the last.
A1111_CUT = ("dpm2", "dpm2_a", "dpmpp_3m_sde")

# ComfyUI's, which tells the network whole timesteps, and begins at the top with noise of unit variance.
COMFY_SCHEDULES = {
    "normal": "linspace+whole+unit",
    "karras": "karras+all+whole+unit",
    "exponential": "exponential+all+whole+unit",
    "sgm_uniform": "sgm_uniform+whole+unit",
    "simple": "simple+unit",
    "ddim_uniform": "ddim_uniform",
    "beta": "beta_timesteps+unit",
    "linear_quadratic": "linear_quadratic+all+whole+unit",
    "kl_optimal": "kl_optimal+all+whole+unit",
}
COMFY_CUT = ("dpm2", "dpm2_a", "unipc")

# Samplers that add noise, as they are by default. Tools draw it from streams of their own.
DRAWING = (
    *("ddpm", "euler_a", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"),
    *("lcm", "tcd"),
)
BROWNIAN = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")  # the stream is a Brownian tree


def a1111_schedule(sampler: str, written: str = "Automatic") -> str | None:
    """Our name of an A1111 schedule for a sampler; "" for a schedule that is not supported, None for a
    sampler that A1111 does not have.

    Its samplers from k-diffusion spread timesteps from the last to the first, or what "Automatic" is
    for them; DDIM, PLMS and UniPC have `A1111_OWN`.
    """
    if sampler in A1111_OWN:
        return A1111_OWN[sampler] if written in ("Automatic", "Uniform", "DDIM") else ""
    if sampler not in SAMPLERS or not SAMPLERS[sampler].sigma_space:
        return None if written in ("Automatic", "Uniform") else ""
    if written == "Automatic":
        written = A1111_AUTOMATIC.get(sampler, "Uniform")
    name = _found(A1111_SCHEDULES, written)
    if "cut" in name and sampler in A1111_CUT:
        return ""  # two levels less than it computes
    return _cut(name, sampler in A1111_CUT)


def comfy_schedule(sampler: str, written: str = "normal") -> str | None:
    """The same for ComfyUI's."""
    if sampler not in SAMPLERS or not SAMPLERS[sampler].sigma_space:
        return None if written == "normal" else ""
    return _cut(_found(COMFY_SCHEDULES, written), sampler in COMFY_CUT)


def a1111_sampler(written: str) -> tuple[str, dict[str, int | str]]:
    """Our name and options of an A1111 sampler, with A1111's defaults."""
    base, options = split_solver(written)
    name, _ = find_sampler(base)
    return name, {"order": 3, "variant": "bh1"} if name == "unipc" else options


def comfy_sampler(written: str) -> tuple[str, dict[str, int | str]]:
    """Our name and options of a ComfyUI sampler. ComfyUI's `ddim` is Euler's steps on its own sigmas."""
    base, options = split_solver(written)
    name, _ = find_sampler(base)
    if name == "unipc":
        return name, {"order": 3, "variant": "bh2" if written == "uni_pc_bh2" else "bh1"}
    return "euler" if name == "ddim" else name, options


def a1111_title(spacing: str | None) -> str | None:
    """A1111's name of a spacing; a name that it does not have is returned unchanged."""
    titles = {name: title for title, name in A1111_SCHEDULES.items()} | {"karras": "Karras"}
    if spacing in (None, OWN):
        return None
    name = "+".join(part for part in str(spacing).split("+") if part not in ("whole", "unit"))
    return titles.get(name) or titles.get(name.replace("+cut", ""), spacing)


def _found(schedules: dict[str, str], written: str) -> str:
    return {_letters(title): name for title, name in schedules.items()}.get(_letters(written), "")


def _cut(name: str, cut: bool) -> str:
    return str(find_spacing(f"{name}+cut")) if name and cut else name


def split_solver(written: str) -> tuple[str, dict[str, int | str]]:
    """A name without its solver, and the solver as an option: "DPM++ 2M SDE Heun Karras"."""
    name = re.sub(r"(2m[ _]?sde)[ _]?heun", r"\1", written, flags=re.IGNORECASE)
    return name, {} if name == written else {"solver": "heun"}


def find_schedule(written: str) -> str:
    """Our name of a schedule, or the name unchanged."""
    return _schedules().get(_letters(written), written)


def find_sampler(written: str) -> tuple[str, str | None]:
    """Our name of a sampler, and the schedule that the written name ends with: "DPM++ 2M Karras" is
    ``("dpmpp_2m", "karras")``, "k_euler_ancestral" ``("euler_a", None)``. An unknown name is returned
    unchanged."""
    known = {_letters(name): name for name in SAMPLERS}
    known |= {_letters(sampler.metadata_name): name for name, sampler in SAMPLERS.items()}
    known |= {letters: name for letters, name in OTHERS.items() if name in SAMPLERS}
    letters = _letters(written)
    # "_k" is InvokeAI's; "_gpu" is where ComfyUI draws the noise of a sampler.
    endings: dict[str, str | None] = {"": None, **_schedules()}
    endings |= {"k": "karras"} if written.endswith("_k") else {}
    endings |= {"gpu": None} if written.endswith("_gpu") else {}
    for ending in sorted(endings, key=len):
        base = _letters(letters.removesuffix(ending))
        if letters.endswith(ending) and base in known:
            return known[base], endings[ending]
    return written, None


def _schedules() -> dict[str, str]:
    return {_letters(name): name for name in SPACINGS} | OTHER_SCHEDULES


def _letters(name: str) -> str:
    """A name without case, punctuation, and the prefixes and suffixes of some tools."""
    name = re.sub(r"^(sample|k)_|(discrete)?scheduler$", "", name.strip().casefold())
    name = re.sub(r"[^a-z0-9]", "", name.replace("+", "p"))
    return re.sub(r"ancestral$", "a", name)
