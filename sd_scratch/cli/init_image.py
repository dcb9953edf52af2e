"""``--init-image`` and ``--strength``: a run that begins with a picture."""

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sd_scratch.errors import UsageError

if TYPE_CHECKING:
    from sd_scratch.pipeline.image_noise import ImageNoise
    from sd_scratch.pipeline.recipe import Recipe
    from sd_scratch.pipeline.stable_diffusion import StableDiffusion

CELL = 8  # pixels of a side that one place of every known autoencoder's latent stands for

log = logging.getLogger(__name__)


def ask_for_init_image(args: argparse.Namespace, recipe: "Recipe") -> "Recipe":
    """The recipe with the picture that it begins with, its strength, and its size where no other was said.

    Raises UsageError for a strength without a picture, and for a repeated recipe whose picture is not named.
    """
    path: Path | None = getattr(args, "init_image", None)
    strength = getattr(args, "strength", None)
    if path is None:
        if strength is not None:
            raise UsageError(
                "--strength without a picture to begin with - name it with --init-image"
            )
        if recipe.strength is not None:
            raise UsageError(
                f"{args.from_image} began with the picture {recipe.init_image or 'of another file'} - a"
                " picture cannot choose a file - name it with --init-image"
            )
        return recipe
    from sd_scratch.pictures.read import read_picture
    from sd_scratch.pipeline.complete import BEGUN

    width, height = (max(side // CELL, 1) * CELL for side in read_picture(path).size)
    if strength is None:
        strength = recipe.strength if recipe.strength is not None else BEGUN
    if strength == 0:
        log.warning(
            "strength 0: the picture goes through the autoencoder, and nothing is made anew"
        )
    return replace(
        recipe,
        init_image=path.name,
        strength=strength,
        width=recipe.width or width,
        height=recipe.height or height,
    )


def encode_init_image(
    args: argparse.Namespace, model: "StableDiffusion", recipe: "Recipe"
) -> "ImageNoise | None":
    """The picture that the run begins with, encoded once for all prompts; None where it begins with noise."""
    if recipe.strength is None:
        return None
    from sd_scratch.pictures.read import read_picture
    from sd_scratch.pipeline.run import fitted

    return model.encode(fitted(read_picture(args.init_image), recipe, str(args.init_image)))
