"""``sd-scratch invert``: a picture to the noise that it is made from."""

import argparse

from sd_scratch.cli.options import (
    CELL,
    a_path,
    a_target,
    add_clip_skip_argument,
    add_device_arguments,
    add_guidance_argument,
    add_model_arguments,
    integer,
)
from sd_scratch.cli.picture_options import add_adapter_arguments, add_prompt_arguments
from sd_scratch.errors import UsageError, log
from sd_scratch.limits import STEPS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("picture", type=a_path, metavar="PICTURE", help="PNG, JPEG or WebP")
    add("-p", "--prompt", default="", help="what it shows; the same prompt makes it again")
    add(
        "--steps",
        type=integer(*STEPS),
        help="1 to 1000 (default: the model's own); more are more exact",
    )
    add_guidance_argument(
        parser, "guidance on the way up (default 1, where the way back is nearest)", 1.0
    )
    add_clip_skip_argument(parser)
    add_prompt_arguments(parser.add_argument_group("how the prompt is read"))
    add(
        "-o",
        "--output",
        type=a_target,
        required=True,
        metavar="FILE.safetensors",
        help="the noise and its recipe",
    )
    add("--overwrite", action="store_true", help="replace a file that exists")
    add_adapter_arguments(parser)
    add_model_arguments(parser)
    add_device_arguments(parser)
    parser.set_defaults(batch_count=1, compile=False)


def run(args: argparse.Namespace) -> int:
    from safetensors.torch import save

    from sd_scratch.cli.adapters import ask_for_adapters
    from sd_scratch.cli.console import progress_bar
    from sd_scratch.cli.control import read_hints
    from sd_scratch.cli.load import load_model
    from sd_scratch.cli.output import Output
    from sd_scratch.cli.request import DEFAULT_MODEL
    from sd_scratch.mapping.inversion import INVERSE
    from sd_scratch.pictures.read import read_picture
    from sd_scratch.pipeline.recipe import Recipe
    from sd_scratch.pipeline.run import settings_of

    output = Output(args.output, overwrite=args.overwrite, fields=(), suffix=".safetensors")
    output.check()
    picture = read_picture(args.picture)
    if min(picture.size) < CELL:
        raise UsageError(f"{args.picture} is {picture.width}x{picture.height} pixels: too small")
    width, height = (side // CELL * CELL for side in picture.size)
    if (width, height) != picture.size:
        log.warning(f"{args.picture} is cut to {width}x{height} pixels, whole cells of a latent")
        picture = picture.crop((0, 0, width, height))
    recipe = Recipe(
        args.prompt,
        steps=args.steps,
        sampler="ddim",
        guidance=args.cfg_scale,
        width=width,
        height=height,
        clip_skip=args.clip_skip,
        syntax=args.syntax,
        emphasis=args.emphasis,
        dtype=args.dtype,
        model=args.model or DEFAULT_MODEL,
        revision=args.revision,
        prediction=args.prediction,
        zero_snr=args.zsnr or None,
    )
    recipe = ask_for_adapters(args, recipe, True, [])
    hints = read_hints(args)
    model, recipe = load_model(args, recipe, {})
    begun = model.encode(picture)
    settings = {**settings_of(model, recipe, hints), "sampler": INVERSE}
    latent = begun.latent
    with progress_bar(recipe.steps or 0, "steps") as bar:
        for step in model.steps(noise=begun, **settings):
            latent = step.x_next
            bar.update()
    data = save({"noise": latent.cpu().contiguous()}, {"sd_scratch": recipe.to_json()})
    output.keep(data)
    return 0
