"""``sd-scratch sample``: a sheet of pictures from a trained model, prompts or classes down and seeds
across."""

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sd_scratch.cli.options import (
    a_name,
    a_target,
    add_device_arguments,
    integer,
    number,
    refuse_flags,
    seed,
)
from sd_scratch.errors import UsageError
from sd_scratch.limits import GUIDANCE, STEPS, are_digits
from sd_scratch.training.pixels.datasets import DATA_SETS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sd_scratch.cli.output import Output

PIXELS = ", ".join(DATA_SETS)
FRAMES = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("preset", choices=("scenes", *DATA_SETS), help="which kind of model")
    add("-m", "--model", type=a_name, help="its name or folder (default: the shipped one)")
    add(
        "-p", "--prompt", action="append", help="a row of the sheet (default: scenes unseen before)"
    )
    add("--rows", type=integer(1, 64), help="rows without prompts or classes (6)")
    add("-b", "--batch-count", type=integer(1, 64), default=8, help="columns (8)")
    add("-s", "--seed", type=seed, default=0, help="of the first column (0)")
    add("--steps", type=integer(*STEPS), help="sampling steps (scenes: the model's)")
    add("--cfg-scale", type=number(*GUIDANCE), help="guidance (default: the model's)")
    add(
        "-o",
        "--output",
        type=a_target,
        help="a .png file, - for standard output (default: a free samples.png)",
    )
    add("--overwrite", action="store_true", help="replace files that exist")
    group = parser.add_argument_group(PIXELS)
    group.add_argument(
        "--class",
        action="append",
        metavar="NAME",
        help="a class by name, by number where the names are words, or none; again for more"
        " (default: all, one a row)",
    )
    group.add_argument(
        "--sampler", type=a_name, help="ddpm, ddim, pndm, lms, ... (default: the model's)"
    )
    group.add_argument("--film", type=a_target, metavar="FILE.gif", help="show how they come about")
    add_device_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from sd_scratch.cli.machine import choose_device, set_threads
    from sd_scratch.cli.output import Output
    from sd_scratch.diffusion.noise import random_seed
    from sd_scratch.pictures.grid import grid
    from sd_scratch.pictures.png import encode_png

    if args.preset in DATA_SETS:
        refuse_flags(args, "--prompt --dtype", "is for scenes")
    else:
        refuse_flags(args, "--class --sampler --film", f"is for {PIXELS}")
    output = Output(args.output, overwrite=args.overwrite, default="samples.png", fields=())
    output.check()
    film = None
    if args.film is not None:
        film = Output(args.film, overwrite=args.overwrite, fields=(), suffix=".gif")
        film.check()
    set_threads(args.threads)
    device = choose_device(args.device)
    first = random_seed() if args.seed == -1 else args.seed
    seeds = range(first, first + args.batch_count)
    if args.preset in DATA_SETS:
        pictures, columns = _of_classes(args, seeds, device, film)
    else:
        pictures, columns = _of_prompts(args, seeds, device)
    output.keep(encode_png(grid(pictures, columns, zoom=2)))
    return 0


def _of_prompts(
    args: argparse.Namespace, seeds: Sequence[int], device: "torch.device"
) -> "tuple[Tensor, int]":
    from sd_scratch.checkpoints import load_components
    from sd_scratch.cli.machine import choose_dtype
    from sd_scratch.scenes.captions import full_caption
    from sd_scratch.scenes.evaluate import CHECK_SEED, sample_prompts
    from sd_scratch.scenes.graph import sample_scene

    unseen = (sample_scene(CHECK_SEED, i) for i in range(args.rows or 6))
    prompts = args.prompt or [full_caption(scene) for scene in unseen]
    dtype = choose_dtype(args.dtype, device)
    images = sample_prompts(
        load_components(args.model or "scenes", dtype=dtype, device=device),
        [prompt for prompt in prompts for _ in seeds],
        [*seeds] * len(prompts),
        steps=args.steps,
        guidance=args.cfg_scale,
    )
    return images, len(seeds)


def _of_classes(
    args: argparse.Namespace, seeds: Sequence[int], device: "torch.device", film: "Output | None"
) -> "tuple[Tensor, int]":
    """One row for each class; of one class alone a square."""
    from sd_scratch.pictures.film import encode_film
    from sd_scratch.pipeline.pixel_diffusion import load_pixels

    model = load_pixels(args.model or f"ddpm-{args.preset}", device)
    asked = [class_number(model.config.class_names, name) for name in getattr(args, "class") or ()]
    rows = asked or list(range(min(model.no_class, args.rows or 64)))
    columns = len(seeds) if len(rows) > 1 else math.ceil(math.sqrt(len(seeds)))
    classes = [number for number in rows for _ in seeds]
    every = [seeds[0] + i for i in range(len(classes))]
    settings = {"sampler": args.sampler, "steps": args.steps, "guidance": args.cfg_scale}
    if film is not None:
        made = model.steps(classes, every, **settings)
        stages = [model.to_picture(step.x_next) for step in made]
        film.keep(encode_film(stages[:: -max(1, len(stages) // FRAMES)][::-1], columns))
        return stages[-1], columns
    return model.generate(classes, every, **settings), columns


def class_number(names: Sequence[str], word: str) -> int | None:
    """A class by its name, or "none" for pictures of no class in particular; where no class is called
    by a number, also by its number, from 0."""
    if word in names:
        return names.index(word)
    if word == "none":
        return None
    numbered = any(name.isdecimal() for name in names)
    if not numbered and are_digits(word) and int(word) < len(names):
        return int(word)
    raise UsageError(f"class {word!r} is unknown - there is {', '.join(names[:20])}")
