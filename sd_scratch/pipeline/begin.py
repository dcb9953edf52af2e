"""The start of a run from a picture: its latent, or a canvas to paint on."""

from typing import Any

import numpy as np
from PIL import Image

from sd_scratch.config import ModelConfig
from sd_scratch.errors import UsageError, log
from sd_scratch.pictures.masks import HALF, Mask, extended, resized
from sd_scratch.pipeline.canvas import Canvas
from sd_scratch.pipeline.checks import PICTURE, inputs_beside
from sd_scratch.pipeline.complete import with_picture
from sd_scratch.pipeline.image_noise import ImageNoise
from sd_scratch.pipeline.mask_use import MaskUse
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.text_to_image import TextToImage

Beginning = Image.Image | ImageNoise | Canvas
"""A picture, that picture encoded, or made a canvas."""


def fitted(picture: Image.Image, recipe: Recipe, name: str) -> Image.Image:
    """A picture of the recipe's size; resizing gives a warning."""
    size = (recipe.width or picture.width, recipe.height or picture.height)
    if picture.size == size:
        return picture
    log.warning(
        f"{name} is resized from {picture.width}x{picture.height} to {size[0]}x{size[1]} pixels"
    )
    return picture.resize(size, Image.Resampling.LANCZOS)


def begin_with(
    model: TextToImage,
    recipe: Recipe,
    picture: Beginning | None,
    mask: Image.Image | Mask | None = None,
) -> tuple[ImageNoise | Canvas | None, Recipe]:
    """The start of a run from a picture, and the recipe with its strength, its size and its mask's settings.

    Raises UsageError if the recipe needs a picture or a mask that was not given, or has margins and another
    size.
    """
    use = recipe.mask
    if picture is None:
        if mask is not None or use is not None or recipe.strength is not None:
            raise UsageError(
                f"the recipe begins with the picture {recipe.init_image or 'of a file'}"
                " - give it as init_image"
            )
        return None, recipe
    if not isinstance(picture, Image.Image):
        own = picture.picture if isinstance(picture, Canvas) else picture
        recipe = recipe.over(width=own.width, height=own.height)
        return picture, with_picture(recipe, model.config, begun=True)
    if mask is None and use is not None and (use.wants_file or use.alpha):
        raise UsageError(f"the recipe paints where the mask {use.name} is white - give it as mask")
    if mask is not None and use is None:
        recipe = recipe.over(mask=MaskUse())
    picture, white, recipe = _fitted(picture, mask, recipe, model.config)
    recipe = with_picture(recipe, model.config, begun=True)
    use = recipe.mask
    if use is None and inputs_beside(model.config) != PICTURE:
        return model.encode(picture), recipe
    settings: dict[str, Any] = {}
    if use is not None:
        settings = {"blend": use.blend, "content": use.content, "feather": use.feather}
        if use.padding is not None:
            settings |= {"padding": use.padding, "size": (recipe.width, recipe.height)}
    return model.canvas(picture, white, guidance=recipe.image_guidance, **settings), recipe


def _fitted(
    picture: Image.Image, mask: Image.Image | Mask | None, recipe: Recipe, config: ModelConfig
) -> tuple[Image.Image, Mask | None, Recipe]:
    """Picture and mask in the run's size, margins included, or in the picture's own if only its masked part
    is painted; and the recipe with the run's size."""
    name, margins = recipe.init_image or "the picture", recipe.mask.extend if recipe.mask else ()
    white = np.asarray(mask.convert("L")) >= HALF if isinstance(mask, Image.Image) else mask
    part = recipe.mask is not None and recipe.mask.padding is not None
    if part and (any(margins) or recipe.controls):
        raise UsageError(
            "only the masked part of a picture, and margins or a ControlNet, which are of all of it - choose one"
        )
    cell, own = config.vae.downscale, config.sample_size
    width, height = (max(side // cell, 1) * cell for side in picture.size)
    inner = Recipe("", width=width, height=height) if any(margins) else recipe
    inner = inner.over(width=inner.width or width, height=inner.height or height)
    picture = picture if part else fitted(picture, inner, name)
    if white is not None and white.shape != (picture.height, picture.width):
        size = f"{white.shape[1]}x{white.shape[0]}"
        log.warning(f"the mask is resized from {size} to {picture.width}x{picture.height} pixels")
        white = resized(white, picture.width, picture.height)
    if part:
        return picture, white, recipe.over(width=recipe.width or own, height=recipe.height or own)
    if any(margins):
        picture, white = extended(picture, white, margins)
        for asked, side in ((recipe.width, picture.width), (recipe.height, picture.height)):
            if asked not in (None, side):
                raise UsageError(
                    f"{name} with its margins has {picture.width}x{picture.height} pixels, and the recipe"
                    f" has {recipe.width}x{recipe.height} - leave out the size"
                )
    return picture, white, recipe.over(width=picture.width, height=picture.height)
