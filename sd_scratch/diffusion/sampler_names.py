"""Other tools' names of samplers: A1111's, ComfyUI's, stable-diffusion.cpp's, k-diffusion's, diffusers'."""

import re

from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.diffusion.spacing import OWN

# That A1111 wrote behind a sampler's name, and stable-diffusion.cpp does.
SCHEDULES = ("karras", "exponential", "polyexponential", "discrete")

# What is not the same letters but for case, signs, "ancestral" and "scheduler".
OTHERS = {
    "plms": "pndm",
    "dpmsolvermultistep": "dpmpp_2m",
    "dpmsolverpp2m": "dpmpp_2m",
    "dpmsolversde": "dpmpp_sde",
    "dpmsolversinglestep": "dpmpp_2s",
    "kdpm2discrete": "dpm2",
    "kdpm2adiscrete": "dpm2_a",
    "unipcmultistep": "unipc",
    "deismultistep": "deis",
}


# A1111's schedules by our names. Its sigmas are spread over the whole schedule.
A1111_SCHEDULES = {
    "Uniform": "linspace",
    "Karras": "karras+all",
    "Exponential": "exponential+all",
    "Polyexponential": "polyexponential+all",
    "Beta": "beta+all",
    "SGM Uniform": "sgm_uniform",
    "Align Your Steps": "ays",
}
# What its "Automatic" is, where it is not "Uniform".
A1111_AUTOMATIC = {
    **dict.fromkeys(("dpm2", "dpm2_a", "dpmpp_2m", "dpmpp_2s_a", "dpmpp_sde"), "Karras"),
    **dict.fromkeys(("dpmpp_2m_sde", "dpmpp_3m_sde"), "Exponential"),
}
# Samplers that take one sigma more and leave out the last.
A1111_CUT = ("dpm2", "dpm2_a", "dpmpp_3m_sde")

COMFY_SCHEDULES = {
    "normal": "linspace",
    "karras": "karras+all",
    "exponential": "exponential+all",
    "sgm_uniform": "sgm_uniform",
}
COMFY_CUT = ("dpm2", "dpm2_a", "unipc")


def a1111_schedule(sampler: str, written: str = "Automatic") -> str | None:
    """Our name of a schedule of A1111's for a sampler; "" for one that is not here.

    Its samplers from k-diffusion spread timesteps from the last to the first, or what "Automatic" is
    for them; the others have the model's own spacing, which is None.
    """
    if sampler not in SAMPLERS or not SAMPLERS[sampler].sigma_space:
        return None if written in ("Automatic", "Uniform") else ""
    if written == "Automatic":
        written = A1111_AUTOMATIC.get(sampler, "Uniform")
    names = {title.casefold(): name for title, name in A1111_SCHEDULES.items()}
    return _cut(names.get(written.casefold(), ""), sampler in A1111_CUT)


def comfy_schedule(sampler: str, written: str = "normal") -> str | None:
    """The same for ComfyUI's."""
    if sampler not in SAMPLERS or not SAMPLERS[sampler].sigma_space:
        return None if written == "normal" else ""
    return _cut(COMFY_SCHEDULES.get(written, ""), sampler in COMFY_CUT)


def a1111_title(spacing: str | None) -> str | None:
    """What A1111 calls a spacing of ours; a name that it has not comes back as it is."""
    titles = {name: title for title, name in A1111_SCHEDULES.items()} | {"karras": "Karras"}
    if spacing in (None, OWN):
        return None
    return titles.get(str(spacing).removesuffix("+cut"), spacing)


def _cut(name: str, cut: bool) -> str:
    return f"{name}+cut" if name and cut else name


def find_sampler(written: str) -> tuple[str, str | None]:
    """Our name of a sampler, and the schedule that the written name ends with: "DPM++ 2M Karras" is
    ``("dpmpp_2m", "karras")``, "k_euler_ancestral" ``("euler_a", None)``. A name that is not known comes
    back as it is."""
    base, schedule = written.strip(), None
    head, _, tail = base.replace("_", " ").rpartition(" ")
    if head and tail.casefold() in SCHEDULES:
        base, schedule = base[: len(head)], tail.casefold()
    known = {_letters(name): name for name in SAMPLERS}
    known |= {_letters(sampler.metadata_name): name for name, sampler in SAMPLERS.items()}
    known |= {letters: name for letters, name in OTHERS.items() if name in SAMPLERS}
    found = known.get(_letters(base))
    return (written, None) if found is None else (found, schedule)


def _letters(name: str) -> str:
    """What is left of a name without case, signs, and what some put before and behind it."""
    name = re.sub(r"^(sample|k)_|(discrete)?scheduler$", "", name.strip().casefold())
    name = re.sub(r"[^a-z0-9]", "", name.replace("+", "p"))
    return re.sub(r"ancestral(discrete)?$", "a", name)
