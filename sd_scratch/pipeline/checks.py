"""What a model can do and what not, checked before anything is computed."""

from sd_scratch.config import ModelConfig
from sd_scratch.errors import UsageError
from sd_scratch.limits import whole

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


def inputs_beside(config: ModelConfig) -> str | None:
    """What a model's U-Net takes beside the noisy latent, of `MASK` and `PICTURE`; None for nothing.
    Raises UsageError for what is known to nobody."""
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
    """Raise for a model whose U-Net wants more than a noisy latent, and does not get it."""
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
