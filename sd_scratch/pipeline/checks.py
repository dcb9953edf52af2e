"""What a model can do and what not, checked before anything is computed."""

from sd_scratch.config import ModelConfig
from sd_scratch.errors import UsageError
from sd_scratch.limits import whole


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


def check_text_to_image(config: ModelConfig, source: str) -> None:
    """Raise for a model whose U-Net wants more than a noisy latent."""
    if config.unet.in_channels != config.vae.latent_channels:
        raise UsageError(
            f"{source} is an inpainting checkpoint ({config.unet.in_channels} input channels) - it"
            " needs a picture and a mask, and cannot make one from text alone - use a text-to-image"
            " checkpoint",
        )
