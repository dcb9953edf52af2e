"""`Canvas`: the picture that a run paints on, its kept part, and the U-Net's inputs from it.

Three ways to keep a part of a picture with a network without a mask input, by the tools that have them. m is
1 where the picture is repainted, x0 is the kept picture's latent, and x0 with the noise eps of the run's
start at level alpha_bar is q(alpha_bar) = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps:

    diffusers   after each step   x' <- m x' + (1 - m) q(alpha_bar')      (Lugmayr et al. 2022,
                                                                          arXiv:2201.09865, equation 8)
    a1111       the answer        x0_hat <- m x0_hat + (1 - m) x0
    comfy       both              x <- m x + (1 - m) q(alpha_bar) as the network sees it, and its answer
                                  as in a1111

All end with m x + (1 - m) x0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sd_scratch.checkpoints import Components
from sd_scratch.config import AutoencoderConfig
from sd_scratch.diffusion.prediction import eps_from_x0, interpret, noised, velocity
from sd_scratch.diffusion.samplers import Denoiser, Step
from sd_scratch.diffusion.schedule import Ladder
from sd_scratch.errors import UsageError
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.pictures.masks import (
    HALF,
    Mask,
    feathered,
    filled,
    mask_cells,
    paste,
    placed,
    region_around,
    resized,
)
from sd_scratch.pictures.read import to_rgb
from sd_scratch.pipeline.branches import UNCOND
from sd_scratch.pipeline.checks import MASK, PICTURE, check_inputs, check_kind, inputs_beside
from sd_scratch.pipeline.coding import AnyAutoencoder, encode
from sd_scratch.pipeline.image_noise import ImageNoise, as_picture, pictures_to_tensor
from sd_scratch.pipeline.mask_use import BLENDS, CONTENTS, FEATHER, IMAGE_GUIDANCE
from sd_scratch.pipeline.way import Change


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture to paint on; `TextToImage.canvas` makes one.

    Attributes:
        picture: the picture's latent, at t = 0.
        cells: ``[1 or B, 1, h, w]`` fp32, 1 where the picture is repainted, 0 where it is kept; None if all
            of it is painted.
        told: ``[1 or B, C, h, w]``, the U-Net's input beside the noisy latent, if it has one: for an
            inpainting model the mask and the latent of the picture with grey under it; for InstructPix2Pix
            the picture's latent, not scaled.
        blend: how the kept part is kept, one of `BLENDS`.
        noisy: whether the repainted part starts as pure noise.
        guidance: the picture's scale for InstructPix2Pix; None for other models.
        original, weight: the picture itself, and the new picture's share of each pixel ``[H, W]``.
        region: the only part that is painted (left, top, right, bottom); None for all of it.
    """

    picture: ImageNoise = field(repr=False)
    cells: Tensor | None = field(default=None, repr=False)
    told: Tensor | None = field(default=None, repr=False)
    blend: str = BLENDS[0]
    noisy: bool = False
    guidance: float | None = None
    original: Image.Image | None = field(default=None, repr=False)
    weight: NDArray[np.float64] | None = field(default=None, repr=False)
    region: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.blend not in BLENDS:
            raise UsageError(f"blend {self.blend!r} is unknown - choose from {', '.join(BLENDS)}")
        latent = self.picture.latent
        for name, x in (("mask", self.cells), ("picture", self.told)):
            if x is not None and x.shape[-2:] != latent.shape[-2:]:
                raise UsageError(
                    f"the {name} has {x.shape[-1]}x{x.shape[-2]} cells and the latent"
                    f" {latent.shape[-1]}x{latent.shape[-2]}"
                )

    def under(self, begun: ImageNoise, pure: ImageNoise, strength: float = 1.0) -> ImageNoise:
        """The start of a run: `begun`, the picture with noise, or under the mask `pure` noise.
        InstructPix2Pix at full strength starts from pure noise, as the picture is its input anyway."""
        if self.guidance is not None and strength == 1.0:
            return pure
        if not self.noisy or begun.t == 0 or self.cells is None:
            return begun
        cells = self.cells.to(begun.latent)
        return begun.with_latent(torch.where(cells > 0, pure.latent, begun.latent))

    def told_to(self, branches: Sequence[str], batch: int, like: Tensor) -> Tensor | None:
        """The U-Net's input beside x_t, ``[branches * B, C, h, w]``; InstructPix2Pix's branch without the
        picture gets zeros."""
        if self.told is None:
            return None
        told = self.told.to(like).expand(batch, -1, -1, -1)
        hidden = UNCOND if self.guidance is not None else None
        return torch.cat([torch.zeros_like(told) if b == hidden else told for b in branches])

    def finished(self, pictures: Sequence[Image.Image]) -> list[Image.Image]:
        """Finished pictures with the kept pixels pasted back."""
        if self.original is None or self.weight is None:
            return list(pictures)
        if self.region is not None:
            pictures = [placed(self.original, picture, self.region) for picture in pictures]
        return [paste(self.original, picture, self.weight) for picture in pictures]

    @property
    def plain(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON."""
        return {"blend": self.blend, "noisy": self.noisy, "guidance": self.guidance}

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The tensors by name."""
        named = {"picture": self.picture.latent, "cells": self.cells, "told": self.told}
        return {f"canvas.{name}": x for name, x in named.items() if x is not None}


@torch.no_grad()
def make_canvas(
    components: Components,
    encode: Callable[[Image.Image], ImageNoise],
    picture: Image.Image,
    mask: Image.Image | Mask | None = None,
    *,
    blend: str | None = None,
    content: str | None = None,
    feather: int = FEATHER,
    guidance: float | None = None,
    padding: int | None = None,
    size: tuple[int, int] | None = None,
) -> Canvas:
    """A picture to paint on, for `steps`.

    Args:
        picture: its sides are multiples of the autoencoder's cell.
        mask: where it is repainted (white, True) and where it is kept; by default all is repainted.
        blend: how the rest is kept during the run, one of `sd_scratch.pipeline.canvas.BLENDS`; by default
            "diffusers", and "none" for a model with a mask input.
        content: what is under the mask at the start: the "original", the colours around it ("fill"), or only
            "noise", the default for a model with a mask input.
        feather: how many pixels around the mask the new picture fades in; beyond, every pixel of
            `Canvas.finished` is the picture's own.
        padding: paint only the mask's surroundings, so many pixels beyond it, enlarged to `size`, width and
            height, by default the model's own; None for the whole picture.
        guidance: the picture's scale for an InstructPix2Pix model, 1.5 by default.

    Raises:
        UsageError: sizes that do not fit, unknown names, a picture or a mask that the model needs.
    """
    config, vae = components.config, components.vae
    kind = inputs_beside(config)
    check_inputs(config, components.source, picture=True, mask=mask is not None)
    if content not in (None, *CONTENTS):
        raise UsageError(f"content {content!r} is unknown - choose from {', '.join(CONTENTS)}")
    if guidance is not None and kind != PICTURE:
        raise UsageError(f"a picture's own guidance is for {PICTURE}")
    if kind == PICTURE:
        guidance = IMAGE_GUIDANCE if guidance is None else guidance
    original, region = to_rgb(as_picture(picture)), None
    picture, white = original, None if mask is None else _white(mask, original)
    weight = None if white is None else feathered(white, feather)
    if padding is not None:
        size = size or (config.sample_size, config.sample_size)
        picture, white, region = _cut(picture, white, size, padding)
    seen = picture
    if white is not None and content == "fill":
        seen = filled(picture, white)
    latent = encode(seen)
    cells = None if white is None else mask_cells(white, config.vae.downscale)
    told = None if kind is None else _told(vae, picture, white if kind == MASK else None)
    return Canvas(
        latent,
        cells,
        told,
        blend=blend or ("none" if kind == MASK else BLENDS[0]),
        noisy=(content or ("noise" if kind == MASK else "")) == "noise",
        guidance=guidance,
        original=None if weight is None else original,
        weight=weight,
        region=region,
    )


def _cut(
    picture: Image.Image, white: Mask | None, size: tuple[int, int], padding: int
) -> tuple[Image.Image, Mask, tuple[int, int, int, int]]:
    """The part of a picture around a mask, and the mask there, in another size; and its place."""
    if white is None:
        raise UsageError("only the masked part of a picture without a mask - give a mask")
    left, top, right, bottom = region = region_around(white, size, padding)
    picture = picture.crop(region).resize(size, Image.Resampling.LANCZOS)
    return picture, resized(white[top:bottom, left:right], *size), region


def _told(vae: AnyAutoencoder, picture: Image.Image, white: Mask | None) -> Tensor:
    """A U-Net's input beside the noisy latent: the mask and the latent of the picture with grey under it, or,
    without a mask, the picture's raw latent."""
    own = pictures_to_tensor(picture).to(next(vae.parameters()))
    if white is None:
        latent = encode(vae, own)  # not scaled, which TAESD's are
        return latent if isinstance(vae, Autoencoder) else latent / AutoencoderConfig.scaling_factor
    hole = torch.from_numpy(white).to(own)
    empty = vae.to_latent(encode(vae, own * (1 - hole)))
    cells = mask_cells(white, vae.config.downscale).to(empty)
    return torch.cat([cells, empty], dim=1)


def _white(mask: Image.Image | Mask, picture: Image.Image) -> Mask:
    """A mask as an array of the picture's size."""
    white = np.asarray(mask)
    if isinstance(mask, Image.Image):
        white = np.asarray(mask.convert("L")) >= HALF
    elif white.dtype != bool:
        raise UsageError(
            f"a mask is a picture or an array [height, width] of True and False, not {mask!r:.80}"
        )
    if white.shape != (picture.height, picture.width):
        raise UsageError(
            f"the mask is {'x'.join(map(str, white.shape[::-1]))} and the picture {picture.width}x{picture.height}"
            " - resize the one or the other"
        )
    return white


def network_inputs(
    x_t: Tensor, t: float, branches: Sequence[str], canvas: Canvas | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The sample and the timestep, once for each branch, and the sample with what the canvas adds."""
    told = canvas.told_to(branches, len(x_t), x_t) if canvas else None
    x_t = torch.cat([x_t] * len(branches))
    timestep = torch.full((x_t.shape[0],), t, dtype=torch.float32, device=x_t.device)
    return x_t, timestep, x_t if told is None else torch.cat([x_t, told], dim=1)


def kinds_of(canvas: Canvas | None) -> tuple[bool, bool]:
    """Whether a model gets a picture, and a mask with it, from a run's canvas.

    Raises UsageError for what is no canvas.
    """
    check_kind("canvas", canvas, Canvas | None, "one of model.canvas")
    return canvas is not None, canvas is not None and canvas.cells is not None


def keeping(
    canvas: Canvas | None,
    noise: ImageNoise,
    first: Tensor,
    ladder: Ladder,
    predict: Denoiser,
    change: Change | None,
) -> tuple[Denoiser, Change | None]:
    """The network and the change of every step for a run on a canvas; see `Keeping`. Raises UsageError for
    noise of another size."""
    if canvas is None:
        return predict, change
    own = canvas.picture
    if own.latent.shape[-2:] != noise.latent.shape[-2:]:
        raise UsageError(
            f"the picture to paint on is {own.width}x{own.height} and the noise"
            f" {noise.width}x{noise.height} pixels"
        )
    kept = Keeping(canvas, first, ladder)
    return kept.predict(predict), kept.after_change(change)


class Keeping:
    """A canvas in one run: holds the kept part by its blend.

    `noise` is the run's first, unit variance ``[B, 4, h, w]``; the ladder is the one that is walked.
    """

    def __init__(self, canvas: Canvas, noise: Tensor, ladder: Ladder) -> None:
        self.blend = canvas.blend if canvas.cells is not None else "none"
        self.x0, self.noise, self.ladder = canvas.picture.latent.to(noise), noise, ladder
        self.cells = torch.ones_like(noise[:1, :1]) if canvas.cells is None else canvas.cells
        self.cells = self.cells.to(noise)
        self.alpha_bars = dict(zip(ladder.timesteps, ladder.alpha_bars, strict=True))
        self.kind = ladder.schedule.config.prediction_type

    def predict(self, network: Denoiser) -> Denoiser:
        """The network, its prediction changed if the blend says so."""
        if self.blend not in ("a1111", "comfy"):
            return network

        def kept(x_t: Tensor, t: float) -> Tensor:
            alpha_bar = self.alpha_bars.get(t) or self.ladder.schedule.alpha_bar_at(t)
            seen = self._mixed(x_t, alpha_bar) if self.blend == "comfy" else x_t
            x0 = interpret(network(seen, t), seen, alpha_bar, self.kind).x0
            return self._answer(self._over(x0, self.x0), x_t, alpha_bar)

        return kept

    def after_change(self, change: Change | None) -> Change:
        """The change of every step in `denoise`: `change`, and then the kept part is put back."""
        return lambda step: self._kept(step, step.x_next if change is None else change(step))

    def _kept(self, step: Step, x_next: Tensor) -> Tensor:
        if self.blend == "none":
            return x_next
        below = step.index + 1
        if below == len(self.ladder):
            return self._over(x_next, self.x0)
        if self.blend == "diffusers":
            return self._mixed(x_next, self.ladder.alpha_bars[below])
        return x_next

    def _over(self, new: Tensor, kept: Tensor) -> Tensor:
        return self.cells * new + (1 - self.cells) * kept

    def _mixed(self, x: Tensor, alpha_bar: float) -> Tensor:
        return self._over(x, noised(self.x0, self.noise, alpha_bar))

    def _answer(self, x0: Tensor, x_t: Tensor, alpha_bar: float) -> Tensor:
        """The network's output for a predicted `x0`."""
        if self.kind == "sample":
            return x0
        eps = eps_from_x0(x0, x_t, alpha_bar)
        return eps if self.kind == "epsilon" else velocity(x0, eps, alpha_bar)
