"""``--init-image`` and its kind: a run that begins with a picture, paints a part of it, or extends it."""

import argparse
from dataclasses import replace
from pathlib import Path

from sd_scratch.checkpoints.hashes import sha256
from sd_scratch.cli.options import CELL, refuse_flags
from sd_scratch.errors import UsageError, log
from sd_scratch.limits import SIDE, are_digits
from sd_scratch.pictures.masks import Mask, read_holes, read_mask
from sd_scratch.pictures.read import read_picture
from sd_scratch.pipeline.begin import begin_with
from sd_scratch.pipeline.canvas import Canvas
from sd_scratch.pipeline.image_noise import ImageNoise
from sd_scratch.pipeline.mask_use import MaskUse
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.stable_diffusion import StableDiffusion

OF_MASKS = "--only-masked --mask-blur --masked-content --blend"
SIDES = ("left", "top", "right", "bottom")


def ask_for_init_image(args: argparse.Namespace, recipe: Recipe) -> Recipe:
    """The recipe with the picture that it begins with, its strength and mask, and its size where no other was
    said.

    Raises UsageError for settings of a picture without one, and for a repeated recipe whose files are not named.
    """
    path: Path | None = args.init_image
    if path is None:
        _refuse_without_picture(args, recipe)
        return recipe

    width, height = (max(side // CELL, 1) * CELL for side in read_picture(path).size)
    digest = sha256([path])[:10]
    _compare(path, recipe.init_image_hash, digest)
    recipe = recipe.over(
        init_image=path.name,
        init_image_hash=digest,
        strength=args.strength,
        image_guidance=args.image_cfg_scale,
        mask=_mask_use(args, recipe),
    )
    if recipe.mask is not None and any(recipe.mask.extend):
        left, top, right, bottom = recipe.mask.extend
        width, height = width + left + right, height + top + bottom
        for flag, asked, side in (("-W", args.width, width), ("-H", args.height, height)):
            if asked not in (None, side):
                raise UsageError(
                    f"{flag} {asked} and --extend - with its margins {path} has {width}x{height} pixels -"
                    " leave out the size"
                )
    if recipe.strength == 0:
        log.warning(
            "strength 0: the picture goes through the autoencoder, and nothing is made anew"
        )
    if recipe.mask is None or recipe.mask.padding is None:
        recipe = replace(recipe, width=recipe.width or width, height=recipe.height or height)
    return _checked_mask(args, recipe)


def begin_with_init_image(
    args: argparse.Namespace, model: StableDiffusion, recipe: Recipe
) -> ImageNoise | Canvas | None:
    """The picture that the run begins with, encoded once for all prompts; None where it begins with noise."""
    if args.init_image is None:
        return None

    return begin_with(model, recipe, read_picture(args.init_image), _white(args, recipe))[0]


def _refuse_without_picture(args: argparse.Namespace, recipe: Recipe) -> None:
    flags = f"--strength --mask --mask-alpha --extend {OF_MASKS} --image-cfg-scale"
    refuse_flags(args, flags, "without a picture to begin with - name it with --init-image")
    if recipe.strength is not None or recipe.init_image is not None:
        wants = (
            f", and its mask {recipe.mask.name} with --mask"
            if recipe.mask and recipe.mask.wants_file
            else ""
        )
        raise UsageError(
            f"{args.from_image} began with the picture {recipe.init_image or 'of another file'} - a"
            f" picture cannot choose a file - name it with --init-image{wants}"
        )


def _mask_use(args: argparse.Namespace, recipe: Recipe) -> MaskUse | None:
    """What flags say of a mask and of margins, over what a repeated recipe says; None for neither."""
    old = recipe.mask
    if args.mask is not None and args.mask_alpha:
        raise UsageError("--mask and --mask-alpha - a picture has one mask - choose one")
    if old is None and args.mask is None and not args.mask_alpha and args.extend is None:
        why = "without a mask - name it with --mask, --mask-alpha or --extend"
        refuse_flags(args, OF_MASKS, why)
        return None
    use = old or MaskUse()
    if args.mask is not None:
        digest = sha256([args.mask])[:10] if args.mask.is_file() else ""
        _compare(args.mask, use.hash, digest)
        use = use._replace(name=args.mask.name, hash=digest, alpha=False)
    elif args.mask_alpha:
        use = use._replace(name="", hash="", alpha=True)
    elif use.wants_file:
        raise UsageError(
            f"{args.from_image} was painted under the mask {use.name} - a picture cannot choose a file -"
            " name it with --mask"
        )
    if args.extend is not None:
        use = use._replace(extend=_margins(args.extend))
    blend = args.blend or (args.like if old is None and args.like else None)
    return use._replace(
        blend=blend or use.blend,
        content=args.masked_content or use.content,
        feather=use.feather if args.mask_blur is None else args.mask_blur,
        padding=use.padding if args.only_masked is None else args.only_masked,
    )


def _margins(text: str) -> tuple[int, ...]:
    """``left=128,top=64`` as pixels, rounded up to whole cells; UsageError for anything else."""
    margins = dict.fromkeys(SIDES, 0)
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        known = name in SIDES and are_digits(value) and len(value) <= 5
        if not known or int(value) > SIDE[1] or margins[name]:
            raise UsageError(
                f"--extend {text[:60]} - write each side once, such as left=128,right=128 (of"
                f" {', '.join(SIDES)}), with at most {SIDE[1]} pixels"
            )
        margins[name] = -(-int(value) // CELL) * CELL
        if margins[name] != int(value):
            log.warning(f"--extend {part.strip()}: {margins[name]} pixels, a multiple of {CELL}")
    if not any(margins.values()):
        raise UsageError(f"--extend {text[:60]} - no side is extended")
    return tuple(margins.values())


def _white(args: argparse.Namespace, recipe: Recipe) -> Mask | None:
    if recipe.mask is None:
        return None
    if recipe.mask.alpha:
        return read_holes(args.init_image)
    return read_mask(args.mask) if args.mask is not None else None


def _checked_mask(args: argparse.Namespace, recipe: Recipe) -> Recipe:
    """Warn of a mask that has nothing to say; where nothing is painted no steps are taken."""
    white = _white(args, recipe)
    if white is None or recipe.mask is None or any(recipe.mask.extend):
        return recipe
    if not white.any():
        log.warning("the mask keeps all of the picture (it has no white): nothing is made anew")
        return replace(recipe, strength=0.0)
    if white.all():
        log.warning("the mask keeps nothing of the picture (all of it is white)")
    return recipe


def _compare(path: Path, old: str | None, new: str) -> None:
    if old and old != new:
        log.warning(f"{path} is not the file that the picture was made from: it will differ")
