"""`ImageNoise`: a latent that is a picture, noise, or something between."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from sd_scratch.diffusion.noise import Drawing, NoiseSource
from sd_scratch.diffusion.prediction import noised
from sd_scratch.diffusion.schedule import Ladder, Schedule
from sd_scratch.errors import UsageError
from sd_scratch.limits import real
from sd_scratch.pictures.pixels import to_bytes
from sd_scratch.pictures.read import to_rgb
from sd_scratch.pipeline.coding import AnyAutoencoder, decode


@dataclass(frozen=True)
class ImageNoise:
    """A batch of latents between picture and noise.

    Attributes:
        latent: ``[B, 4, h, w]`` fp32, scaled as the U-Net sees it (about unit variance).
        t: its timestep: 0 is a finished picture, the schedule's last is pure noise. A run starts there, or at
            the sampler's next timestep below.
        seeds: one seed per image; image i draws all its noise from seeds[i].
        drawing: how it draws.
    """

    latent: Tensor = field(repr=False)
    t: float
    seeds: tuple[int, ...]
    autoencoder: AnyAutoencoder = field(repr=False)
    schedule: Schedule = field(repr=False)
    drawing: Drawing = field(default_factory=Drawing)

    def __len__(self) -> int:
        return self.latent.shape[0]

    @property
    def width(self) -> int:
        """Width of the picture in pixels."""
        return self.latent.shape[-1] * self.autoencoder.config.downscale

    @property
    def height(self) -> int:
        """Height of the picture in pixels."""
        return self.latent.shape[-2] * self.autoencoder.config.downscale

    def with_latent(self, latent: Tensor, t: float | None = None) -> "ImageNoise":
        """The same seeds with another latent, at timestep `t` if it differs."""
        return replace(self, latent=latent, t=self.t if t is None else t)

    def start(self, ladder: Ladder, *, climbs: bool = False) -> tuple[Tensor, Ladder]:
        """The start of a run: the sample ``[B, 4, h, w]``, and the part of the ladder to walk.

        Pure noise starts at the top, at any timestep; anything else at the level of `t` or the next below. A
        sampler that `climbs` starts from a picture, at the bottom. Raises `UsageError` if no step remains.
        """
        if climbs:
            if self.t != 0:
                raise UsageError(
                    f"the latent stands at t = {self.t:g}, and the way up to its noise begins with a"
                    " finished picture, at t = 0"
                )
            return self.latent, ladder
        if self.t == 0:
            raise UsageError(
                "the latent stands at t = 0, a finished picture: nothing is left to be denoised - add"
                " noise to it first, with noised(t)"
            )
        if self.t == len(self.schedule) - 1:
            scale = ladder.noise_scale
            return (self.latent if scale == 1.0 else scale * self.latent), ladder
        return self.latent, ladder.below(self.t)

    def noised(self, t: float) -> "ImageNoise":
        """A picture with the noise of timestep `t` added, 0 to the schedule's last and whole or not, drawn
        from the seeds (Ho et al. 2020, equation 4)."""
        if not 0 <= (-1 if real(t) is None else t) <= len(self.schedule) - 1:
            raise UsageError(f"t = {t} is no timestep - give 0 to {len(self.schedule) - 1}")
        return self.with_latent(self._noised(self.schedule.alpha_bar_at(t)), t)

    def on(self, ladder: Ladder) -> "ImageNoise":
        """A picture with the noise of a ladder's top level added, drawn as in `noised`, for a run down that
        ladder."""
        latent, t = self._noised(ladder.alpha_bars[0]), ladder.timesteps[0]
        if t == len(self.schedule) - 1:
            latent = latent / ladder.noise_scale  # `start` takes it for pure noise of unit variance
        return self.with_latent(latent, t)

    def _noised(self, alpha_bar: float) -> Tensor:
        draw = NoiseSource(self.seeds, self.drawing).draw
        noise = draw(self.latent.shape[1:], self.latent.device, self.latent.dtype)
        return noised(self.latent, noise, alpha_bar)

    def decode(self) -> Tensor:
        """The picture ``[B, 3, H, W]``, about -1..1 and not clamped.

        In half precision the decoder may overflow; it then runs again in fp32. If memory does not suffice for
        the whole, it runs in strips.

        Raises:
            NotFinite: the picture has non-finite values.
            MemoryShortage: memory does not suffice.
        """
        return decode(self.autoencoder, self.latent)

    def to_pil(self) -> list[Image.Image]:
        """The pictures as 8-bit RGB."""
        pixels = to_bytes(self.decode() * 0.5 + 0.5).permute(0, 2, 3, 1)  # [B, H, W, 3]
        return [Image.fromarray(picture) for picture in pixels.cpu().numpy()]


Pictures = Image.Image | npt.NDArray[np.uint8] | Sequence[Image.Image | npt.NDArray[np.uint8]]
"""One picture or several of one size: Pillow's, or 8-bit arrays ``[H, W]`` or ``[H, W, 3]``."""


def pictures_to_tensor(pictures: Pictures) -> Tensor:
    """Pictures of one size to ``[B, 3, H, W]`` in -1..1, on white where they are transparent.

    Raises UsageError for none, for several sizes, and for anything but pictures.
    """
    one_array = getattr(pictures, "ndim", 0) in (2, 3)
    if one_array or isinstance(pictures, Image.Image) or not isinstance(pictures, Iterable):
        pictures = [pictures]  # type: ignore[list-item]
    each = [to_rgb(as_picture(one)) for one in pictures]
    if not each:
        raise UsageError("no picture was given to encode")
    if len({one.size for one in each}) > 1:
        sizes = ", ".join(f"{one.width}x{one.height}" for one in each[:5])
        raise UsageError(
            f"the pictures to encode have several sizes, {sizes} - give one size at a time"
        )
    arrays = [np.asarray(one, dtype=np.float32) for one in each]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1


def as_picture(one: Any) -> Image.Image:
    """One of Pillow's, or of an 8-bit array; UsageError for anything else."""
    if isinstance(one, Image.Image):
        return one
    if getattr(one, "dtype", None) == np.uint8:
        try:
            return Image.fromarray(one)
        except (TypeError, ValueError, AttributeError):
            pass
    raise UsageError(
        f"a picture is one of Pillow's or an array [height, width, 3] of uint8, not {type(one).__name__}"
        f" {tuple(getattr(one, 'shape', ()))}"
    )
