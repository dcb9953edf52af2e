"""The steps of a run that starts from a picture, and the enlargement before a second pass.

Tools count the steps at a strength in three ways; A1111 and ComfyUI make two of them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from sd_scratch.diffusion.schedule import Ladder
from sd_scratch.errors import UsageError
from sd_scratch.limits import STRENGTH_STEPS, UPSCALER_NAMES
from sd_scratch.pipeline.image_noise import ImageNoise

NEARLY = 0.999  # what A1111 takes for a strength of 1


class Part(NamedTuple):
    """The part of a ladder that a run takes: the last `taken` of `levels`. Of a ladder with another number of
    levels, those from the same one on, or, as in ComfyUI, as many (`counted_back`)."""

    levels: int
    taken: int
    counted_back: bool = False

    def of(self, ladder: Ladder) -> Ladder:
        above = (len(ladder) if self.counted_back else self.levels) - self.taken
        return ladder.tail(min(max(above, 0), len(ladder) - 1))


def part_of(steps: int, strength: float, counted: str = STRENGTH_STEPS[0]) -> Part:
    """The levels of a run of so many `steps` at a strength above 0, up to 1.

    `counted` as in ``diffusers``: int(steps * strength) of the steps, one at least; as in ``a1111``:
    int(steps * strength) + 1 of them; as in ``comfy``: all of the steps, the last ones of a ladder of
    int(steps / strength). Raises UsageError for another way.
    """
    if counted not in STRENGTH_STEPS:
        raise UsageError(
            f"steps counted like {counted!r} - choose from {', '.join(STRENGTH_STEPS)}"
        )
    if counted == "comfy":
        return Part(max(steps, int(steps / strength)), steps, counted_back=strength < 1.0)
    if counted == "a1111":
        return Part(steps, min(steps, int(min(strength, NEARLY) * steps) + 1))
    return Part(steps, max(1, int(steps * strength)))


@dataclass(frozen=True)
class Upscaler:
    """A way to enlarge: latents by `mode` of `torch.nn.functional.interpolate`, or pictures.

    Attributes:
        title: A1111's name.
        picture: Pillow's filter; None for latents.
    """

    title: str
    mode: str = "bilinear"
    antialias: bool = False
    picture: Image.Resampling | None = None


UPSCALERS = dict(
    zip(
        UPSCALER_NAMES,
        (
            Upscaler("Latent"),
            Upscaler("Latent (antialiased)", antialias=True),
            Upscaler("Latent (bicubic)", "bicubic"),
            Upscaler("Latent (bicubic antialiased)", "bicubic", True),
            Upscaler("Latent (nearest)", "nearest"),
            Upscaler("Latent (nearest-exact)", "nearest-exact"),
            Upscaler("Lanczos", picture=Image.Resampling.LANCZOS),
            Upscaler("Nearest", picture=Image.Resampling.NEAREST),
        ),
        strict=True,
    )
)
UPSCALED, HIRES_STRENGTH = "latent", 0.7  # where nothing is said, as A1111


def larger(side: int, scale: float, cell: int) -> int:
    """A side in pixels times `scale`, down to whole cells of a latent."""
    return int(side * scale) // cell * cell


def enlarged(
    image: ImageNoise, scale: float, method: str, tiling: str = ""
) -> ImageNoise | list[Image.Image]:
    """Finished pictures, larger by `scale`: as latents, or as pictures to encode. On the axes of `tiling`
    opposite edges fit.

    Raises UsageError for a method that is not one of `UPSCALERS`.
    """
    if method not in UPSCALERS:
        raise UsageError(f"upscaler {method!r} is unknown - choose from {', '.join(UPSCALERS)}")
    upscaler, cell = UPSCALERS[method], image.autoencoder.config.downscale
    width, height = (larger(side, scale, cell) for side in (image.width, image.height))
    across, down = (3 if axis in tiling else 1 for axis in "xy")  # what is cut out has neighbours
    if upscaler.picture is not None:
        pixels = [np.tile(np.asarray(one), (down, across, 1)) for one in image.to_pil()]
        size = across * width, down * height
        large = [Image.fromarray(each).resize(size, upscaler.picture) for each in pixels]
        left, top = across // 3 * width, down // 3 * height
        return [each.crop((left, top, left + width, top + height)) for each in large]
    more = {"antialias": True} if upscaler.antialias else {}
    h, w = height // cell, width // cell
    with torch.no_grad():
        latent = F.interpolate(
            image.latent.tile(down, across), size=(down * h, across * w), mode=upscaler.mode, **more
        )
    latent = latent.narrow(2, down // 3 * h, h).narrow(3, across // 3 * w, w)
    return image.with_latent(latent.contiguous(), t=0)
