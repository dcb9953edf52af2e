"""``--init-image`` and its kind: a run that begins with a picture, paints a part of it, or extends it."""

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sd_scratch.cli.options import integer, number
from sd_scratch.errors import UsageError
from sd_scratch.limits import GUIDANCE, SIDE, STRENGTH_STEPS, are_digits
from sd_scratch.pipeline.mask_use import BLENDS, CONTENTS, FEATHER, IMAGE_GUIDANCE, MaskUse

if TYPE_CHECKING:
    from sd_scratch.pictures.masks import Mask
    from sd_scratch.pipeline.canvas import Canvas
    from sd_scratch.pipeline.image_noise import ImageNoise
    from sd_scratch.pipeline.recipe import Recipe
    from sd_scratch.pipeline.stable_diffusion import StableDiffusion

CELL = 8  # pixels of a side that one place of every known autoencoder's latent stands for
SIDES = ("left", "top", "right", "bottom")

log = logging.getLogger(__name__)


def add_init_image_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("from a picture")
    group.add_argument(
        "-i",
        "--init-image",
        "--init-img",
        type=Path,
        metavar="FILE",
        help="a picture to begin with: PNG, JPEG or WebP, over white where it is transparent",
    )
    group.add_argument(
        "--strength",
        type=number(0, 1),
        help="how much of it is made anew: the share of the steps that are taken (default 0.75; 1 with a mask,"
        " with margins, and for models that are told of the picture)",
    )
    group.add_argument(
        "--strength-steps",
        choices=STRENGTH_STEPS,
        metavar="TOOL",
        help="whose way to count the steps at a strength: diffusers' (default), a1111's or comfy's",
    )
    group.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="paint where it is white, from half grey on; all other pixels are kept as they are",
    )
    group.add_argument(
        "--mask-alpha", action="store_true", help="paint where the picture is transparent"
    )
    group.add_argument(
        "--extend",
        metavar="SIDE=PIXELS,...",
        help="paint beyond the picture's edges: left=128,right=128,top=64,bottom=64",
    )
    group.add_argument(
        "--mask-blur",
        type=integer(0, SIDE[1]),
        metavar="PIXELS",
        help=f"around the mask, in which the new picture fades into the old one (default {FEATHER})",
    )
    group.add_argument(
        "--masked-content",
        choices=CONTENTS,
        help="what is there at first: what was (default), the colours around it (default for margins), or noise",
    )
    group.add_argument(
        "--blend",
        choices=BLENDS,
        help="how the rest is kept on the way, as which tool (default: diffusers; none for models that are"
        " told of the mask)",
    )
    group.add_argument(
        "--image-cfg-scale",
        type=number(*GUIDANCE),
        metavar="SCALE",
        help=f"how strongly the picture steers an InstructPix2Pix model (default {IMAGE_GUIDANCE})",
    )


def ask_for_init_image(args: argparse.Namespace, recipe: "Recipe") -> "Recipe":
    """The recipe with the picture that it begins with, its strength and mask, and its size where no other was
    said.

    Raises UsageError for settings of a picture without one, and for a repeated recipe whose files are not named.
    """
    path: Path | None = getattr(args, "init_image", None)
    if path is None:
        _refuse_without_picture(args, recipe)
        return recipe
    from sd_scratch.checkpoints.hashes import sha256
    from sd_scratch.pictures.read import read_picture

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
    recipe = replace(recipe, width=recipe.width or width, height=recipe.height or height)
    return _checked_mask(args, recipe)


def begin_with_init_image(
    args: argparse.Namespace, model: "StableDiffusion", recipe: "Recipe"
) -> "ImageNoise | Canvas | None":
    """The picture that the run begins with, encoded once for all prompts; None where it begins with noise."""
    if getattr(args, "init_image", None) is None:
        return None
    from sd_scratch.pictures.read import read_picture
    from sd_scratch.pipeline.begin import begin_with

    return begin_with(model, recipe, read_picture(args.init_image), _white(args, recipe))[0]


def _refuse_without_picture(args: argparse.Namespace, recipe: "Recipe") -> None:
    flags = ("strength", "mask", "mask_alpha", "extend", "mask_blur", "masked_content", "blend")
    for name in (*flags, "image_cfg_scale"):
        if getattr(args, name, None) not in (None, False):
            flag = name.replace("_", "-")
            raise UsageError(
                f"--{flag} without a picture to begin with - name it with --init-image"
            )
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


def _mask_use(args: argparse.Namespace, recipe: "Recipe") -> MaskUse | None:
    """What flags say of a mask and of margins, over what a repeated recipe says; None for neither."""
    from sd_scratch.checkpoints.hashes import sha256

    old = recipe.mask
    if args.mask is not None and args.mask_alpha:
        raise UsageError("--mask and --mask-alpha - a picture has one mask - choose one")
    if old is None and args.mask is None and not args.mask_alpha and args.extend is None:
        for name in ("mask_blur", "masked_content", "blend"):
            if getattr(args, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} without a mask - name it with --mask, --mask-alpha or --extend"
                )
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


def _white(args: argparse.Namespace, recipe: "Recipe") -> "Mask | None":
    from sd_scratch.pictures.masks import read_holes, read_mask

    if recipe.mask is None:
        return None
    if recipe.mask.alpha:
        return read_holes(args.init_image)
    return read_mask(args.mask) if args.mask is not None else None


def _checked_mask(args: argparse.Namespace, recipe: "Recipe") -> "Recipe":
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
