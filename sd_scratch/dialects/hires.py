"""Other tools' second pass at a higher resolution, as settings of a `Recipe`.

Other tools have more choices; unsupported ones are noted, with the reason.
"""

import math
from typing import Any

from sd_scratch.dialects.a1111_line import SettingsLine
from sd_scratch.limits import HIRES_SCALE, STEPS, are_digits
from sd_scratch.pipeline.part_way import UPSCALED, UPSCALERS, larger

CELL = 8  # pixels of a side that one place of Stable Diffusion's latents stands for
A1111_UPSCALERS = {upscaler.title: name for name, upscaler in UPSCALERS.items()} | {
    "None": "lanczos"
}
LATENT_METHODS = {  # of ComfyUI and InvokeAI
    "bilinear": "latent",
    "bicubic": "latent-bicubic",
    "nearest-exact": "latent-nearest-exact",
    "nearest": "latent-nearest",
}
# What both passes share here: A1111's setting of the second, that of the first, and what it is.
SHARED = {
    "Hires sampler": ("Sampler", "sampler"),
    "Hires schedule type": ("Schedule type", "schedule"),
    "Hires CFG Scale": ("CFG scale", "guidance"),
    "Hires CFG scale": ("CFG scale", "guidance"),
    "Hires checkpoint": ("Model", "model"),
    "Hires prompt": ("Prompt", "prompt"),
    "Hires negative prompt": ("Negative prompt", "negative prompt"),
}
CPP = "stable-diffusion.cpp"

Size = tuple[int, int]


def scale_to(size: Size, target: Size) -> float | None:
    """The scale of a second pass from `size` to the whole cells of `target`; None if none fits."""
    cells = [side // CELL * CELL for side in target]
    scale = max(new / old for new, old in zip(cells, size, strict=True))
    for _ in range(3):  # a quotient may round below
        if [larger(side, scale, CELL) for side in size] == cells:
            return scale if HIRES_SCALE[0] <= scale <= HIRES_SCALE[1] else None
        scale = math.nextafter(scale, math.inf)
    return None


def hires_of_a1111(
    line: SettingsLine, size: Size, prompt: str, negative: str
) -> dict[str, Any] | None:
    """The two passes of A1111 and stable-diffusion.cpp as settings of a recipe; None for one pass. `size` is
    the value of "Size"."""
    if line.was_written_by(CPP):
        _rename(line)
    if not line.left.keys() & {"Hires upscale", "Hires resize", "First pass size"}:
        return None
    first = _first_pass(line, size)
    settings: dict[str, Any] = {"width": first[0], "height": first[1]}
    scale = line.number("Hires upscale", *HIRES_SCALE) or _scale_of_sizes(line, first)
    if scale is None:
        return settings
    for key, (other, ours) in SHARED.items():
        said = {**line.left, "Prompt": prompt, "Negative prompt": negative}.get(other)
        if line.left.get(key) == said:
            line.take(key)
        line.why[key] = f"both passes have one {ours} here"
    for key in [key for key, value in line.left.items() if value.startswith("Use same")]:
        line.take(key)
    settings |= {
        "hires_scale": scale,
        "hires_method": _method(line),
        "hires_strength": line.number("Denoising strength", 0, 1),
        "hires_steps": line.integer("Hires steps", 0, STEPS[1]) or None,
        "strength_steps": None if line.was_written_by("sd_scratch") else "a1111",
    }
    if line.was_written_by(CPP):
        _count(line, settings)
    return settings


def _rename(line: SettingsLine) -> None:
    """stable-diffusion.cpp's settings under A1111's names: its "Hires upscale" is the upscaler's name, and a
    size of 0x0 means none."""
    upscaler, scale = line.take("Hires upscale"), line.take("Hires scale")
    width, height = line.size("Hires resize", 0) or (0, 0)
    if upscaler in (None, "None"):
        for key in ("Hires steps", "Denoising strength"):
            line.take(key)
        return
    line.left["Hires upscaler"] = str(upscaler)
    if width or height:
        line.left["Hires resize"] = f"{width or height}x{height or width}"
    elif scale is not None:
        line.left["Hires upscale"] = scale


def _first_pass(line: SettingsLine, size: Size) -> Size:
    """The size of the first pass, which A1111 wrote until the end of 2022, when "Size" was that of the second.
    0x0 stands for as many pixels as 512x512 has, in multiples of 64."""
    first = line.size("First pass size", 0)
    if first is None:
        return size
    if "Hires upscale" not in line.left:
        line.left.setdefault("Hires resize", "x".join(map(str, size)))
    if 0 not in first:
        return first
    scale = 512 / math.sqrt(size[0] * size[1])
    return math.ceil(scale * size[0] / 64) * 64, math.ceil(scale * size[1] / 64) * 64


def _scale_of_sizes(line: SettingsLine, first: Size) -> float | None:
    """The scale of "Hires resize". Where A1111 crops a larger picture, all of it is made; a side of 0 follows
    from the other."""
    written = line.left.get("Hires resize", "")
    x, y = line.size("Hires resize", 0) or (0, 0)
    if (x, y) == (0, 0):
        return None
    w, h = first
    grown = (x, y)
    if not line.was_written_by(CPP):
        grown = (x, x * h // w) if y == 0 or (x and x / y > w / h) else (y * w // h, y)
    scale = scale_to(first, grown)
    if scale is None:
        line.keep("Hires resize", written, f"from {w}x{h} no scale from 1 to 8 leads there")
    elif x and y and [side // CELL for side in grown] != [x // CELL, y // CELL]:
        line.keep(
            "Hires resize", written, f"cut out of {grown[0]}x{grown[1]} there, all of it is made"
        )
    return scale


def _method(line: SettingsLine) -> str:
    """The upscaler by our name; Lanczos for upscaling networks."""
    named = line.take("Hires upscaler") or UPSCALERS[UPSCALED].title
    if named not in A1111_UPSCALERS:
        why = f"{named[:40]} is not here, Lanczos stands in its place"
        line.keep("Hires upscaler", named, why)
    return A1111_UPSCALERS.get(named, "lanczos")


def _count(line: SettingsLine, settings: dict[str, Any]) -> None:
    """stable-diffusion.cpp takes a step more if the strength divides the steps."""
    written = line.left.get("Steps", "")
    steps = settings["hires_steps"] or (int(written) if are_digits(written) else 0)
    strength = settings["hires_strength"] or 1.0
    if strength < 1 and int(int(steps / strength) * strength) >= steps > 0:
        line.keep("Hires steps", str(steps), f"{steps + 1} are taken there, {steps} here")
