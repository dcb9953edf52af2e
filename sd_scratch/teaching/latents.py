"""What working on a latent saves."""

from sd_scratch.config import SD15
from sd_scratch.teaching.plot import curves
from sd_scratch.teaching.table import Table

RESOLUTIONS = (256, 512, 768, 1024)
STEPS = 50


def compare() -> Table:
    """Numbers in a picture and in its latent for SD 1.5's autoencoder, float32 memory, and how many pictures'
    worth of 50 steps on latents cost what one step on pixels costs, if cost grows with numbers."""
    f, channels = SD15.vae.downscale, SD15.vae.latent_channels
    rows: list[tuple[object, ...]] = []
    saved = []
    for side in RESOLUTIONS:
        pixels, latent = 3 * side**2, channels * (side // f) ** 2
        saved.append((pixels - latent) * 4 / 2**20)
        rows.append(
            (
                side,
                pixels,
                latent,
                pixels / latent,
                saved[-1],
                pixels / latent,
                pixels / latent / STEPS,
            )
        )
    return Table(
        (
            "side",
            "picture",
            "latent",
            "times fewer",
            "MiB saved",
            "steps for one on pixels",
            "pictures",
        ),
        tuple(rows),
        (
            f"the ratio is 3 f^2 / channels = {3 * f * f / channels:g} at every size",
            f"what is saved grows with the square of the side: {saved[-1] / saved[0]:.0f} times from"
            f" {RESOLUTIONS[0]} to {RESOLUTIONS[-1]}",
        ),
        curves(RESOLUTIONS, {"saved": saved}, "side in pixels", "MiB"),
    )
