"""What values a run may have, both from the command line and from a file. Inclusive."""

import math
import operator
import re
from numbers import Real
from typing import Any

STEPS = (1, 1000)
GUIDANCE = (-1e9, 1e9)
PAG = (0.0, 100.0)  # scale of perturbed attention guidance
SIDE = (8, 8192)  # pixels
SEED = (0, 2**64 - 1)
CLIP_SKIP = (1, 24)
MAX_BATCH = 256  # pictures at a time
LORA_SCALE = (-100.0, 100.0)

RNGS = ("cpu", "nv")  # sources of noise, see `sd_scratch.diffusion.noise.Drawing`
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
STRENGTH_STEPS = ("diffusers", "a1111", "comfy")  # whose way to count the steps at a strength
HIRES_SCALE = (1.0, 8.0)
UPSCALER_NAMES = (  # ways to enlarge, see `sd_scratch.pipeline.part_way`
    "latent",
    "latent-antialiased",
    "latent-bicubic",
    "latent-bicubic-antialiased",
    "latent-nearest",
    "latent-nearest-exact",
    "lanczos",
    "nearest",
)
TILINGS = ("", "x", "y", "xy")  # axes on which a picture's opposite edges fit
DTYPES = ("float32", "float16", "bfloat16")
TUNING = ("quick", "full", "off")  # how kernels are chosen


INTEGER = re.compile("[+-]?[0-9]{1,99}")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def read_integer(text: str) -> int | None:
    """An integer in ASCII digits; None for anything else.

    int() alone would take other scripts' digits, and "1_0".
    """
    return int(text) if INTEGER.fullmatch(text := text.strip()) else None


def read_number(text: str) -> float | None:
    """A number in ASCII digits, infinite if it is too large; None for anything else."""
    return float(text) if NUMBER.fullmatch(text := text.strip()) else None


def are_digits(text: str) -> bool:
    """Whether these are ASCII digits, and nothing else."""
    return text.isascii() and text.isdigit()


def real(value: Any) -> float | None:
    """A finite number of Python, numpy or torch as a float; None for anything else, texts too."""
    if isinstance(value, str | bytes | bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def whole(value: Any) -> int | None:
    """A whole number of Python, numpy or torch as an int, 64.0 too; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError):
        return int(float(value)) if isinstance(value, Real) and value == value // 1 else None
