"""Other tools' names of samplers: A1111's, ComfyUI's, stable-diffusion.cpp's, k-diffusion's, diffusers'."""

import re

from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.diffusion.spacing import SPACINGS

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


AUTOMATIC_KARRAS = {"dpm2", "dpmpp_2m", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"}


def a1111_schedule(sampler: str, written: str = "Automatic") -> str | None:
    """Our name of a schedule of A1111's for a sampler; "" for one that is not here.

    Its samplers from k-diffusion spread timesteps from the last to the first, or what "Automatic" is
    for them; the others have the model's own spacing, which is None.
    """
    if sampler not in SAMPLERS or not SAMPLERS[sampler].sigma_space:
        return None if written in ("Automatic", "Uniform") else ""
    if written == "Automatic":
        written = "Karras" if sampler in AUTOMATIC_KARRAS else "Uniform"
    name = "linspace" if written == "Uniform" else written.casefold().replace(" ", "_")
    return name if name in SPACINGS else ""


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
