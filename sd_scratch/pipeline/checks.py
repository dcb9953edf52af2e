"""Checks of a model's abilities before anything is computed."""

from typing import Any

import torch

from sd_scratch.config import ModelConfig
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.limits import real, whole
from sd_scratch.pipeline.image_noise import ImageNoise

MASK, PICTURE = "an inpainting checkpoint", "an InstructPix2Pix checkpoint"


def check_side(name: str, value: float, multiple: int) -> int:
    """A side in pixels, a positive multiple of the autoencoder's cell; UsageError for another."""
    side = whole(value)
    if side is None:
        raise UsageError(f"{name} {value!r} is not a whole number of pixels")
    if side > 0 and side % multiple == 0:
        return side
    below = max(side // multiple, 1) * multiple
    nearest = f"{below}" if side <= 0 else f"{below} or {below + multiple}"
    raise UsageError(f"{name} {side} is not a positive multiple of {multiple} - use {nearest}")


def check_number(name: str, value: Any) -> float:
    """A finite number; UsageError for anything else."""
    number = real(value)
    if number is None:
        raise UsageError(f"{name} {value!r} is not a number")
    return number


def check_noise(noise: Any) -> ImageNoise:
    """The start of a run; UsageError for anything but an `ImageNoise` with a latent for each seed."""
    if not isinstance(noise, ImageNoise):
        raise UsageError(
            f"noise: give an ImageNoise, such as model.noise(seed=7), not {type(noise).__name__} - a latent of"
            " your own becomes one with model.noise(seed=0).with_latent(latent)"
        )
    wanted = len(noise.seeds), noise.autoencoder.config.latent_channels
    shape = tuple(getattr(noise.latent, "shape", ()))
    fits = isinstance(noise.latent, torch.Tensor) and noise.latent.is_floating_point()
    if not fits or len(shape) != 4 or shape[:2] != wanted:
        raise UsageError(
            f"noise: its latent is {type(noise.latent).__name__} {list(shape)}, and a tensor of floating"
            f" point [{wanted[0]}, {wanted[1]}, height, width] is wanted, one for each of its seeds"
        )
    check_number("noise: t", noise.t)
    return noise


def check_kind(name: str, value: Any, kind: Any, how: str) -> None:
    """UsageError for a value of another type; `how` says how to get one."""
    if not isinstance(value, kind):
        raise UsageError(f"{name}: give {how}, not {value!r:.80}")


def check_own_sampler(named: object, config: ModelConfig) -> None:
    """Raise ScratchError if no sampler is `named`, and the checkpoint's own is not supported."""
    if named is None and config.sampler_lacks:
        raise ScratchError(
            f"{config.sampler_lacks[0]}, and any other would make another picture than the checkpoint asks for"
            " - choose a sampler by name"
        )


def inputs_beside(config: ModelConfig) -> str | None:
    """A U-Net's input beside the noisy latent, `MASK` or `PICTURE`; None for nothing. Raises UsageError for
    an unknown one."""
    channels, latent = config.unet.in_channels, config.vae.latent_channels
    kinds = {latent: None, 2 * latent + 1: MASK, 2 * latent: PICTURE}
    if channels not in kinds:
        raise UsageError(
            f"a U-Net of {channels} input channels - {', '.join(map(str, kinds))} are known"
        )
    return kinds[channels]


def check_inputs(
    config: ModelConfig, source: str, picture: bool = False, mask: bool = False
) -> None:
    """Raise for a model whose U-Net needs more than a noisy latent, and does not get it."""
    kind, channels = inputs_beside(config), config.unet.in_channels
    if kind == MASK and not (picture and mask):
        wanted = "a mask beside the picture" if picture else "a picture and a mask"
        raise UsageError(
            f"{source} is {MASK} ({channels} input channels) - it needs {wanted}, and cannot make one"
            " from text alone"
        )
    if kind == PICTURE and not picture:
        raise UsageError(
            f"{source} is {PICTURE} ({channels} input channels) - it needs a picture, which it changes as"
            " the prompt says"
        )
