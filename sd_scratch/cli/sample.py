"""``sd-scratch sample``: a sheet of pictures from a trained model, prompts or classes down and seeds
across."""

import argparse
from pathlib import Path

from sd_scratch.cli import pixels
from sd_scratch.cli.options import add_device_arguments, integer, number, refuse_flags, seed
from sd_scratch.limits import GUIDANCE, STEPS
from sd_scratch.training.pixels.datasets import DATA_SETS

PRESETS = ("scenes", *DATA_SETS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("preset", choices=PRESETS, help="which kind of model")
    parser.add_argument("-m", "--model", help="its name or folder (default: the shipped one)")
    parser.add_argument(
        "-p", "--prompt", action="append", help="a row of the sheet (default: scenes unseen before)"
    )
    parser.add_argument("--rows", type=integer(1, 64), help="rows without prompts or classes (6)")
    parser.add_argument("-b", "--batch-count", type=integer(1, 64), default=8, help="columns (8)")
    parser.add_argument("-s", "--seed", type=seed, default=0, help="of the first column (0)")
    parser.add_argument("--steps", type=integer(*STEPS), help="sampling steps (scenes: 25)")
    parser.add_argument(
        "--cfg-scale", type=number(*GUIDANCE), help="guidance (default: the model's)"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("samples.png"))
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    pixels.add_sample_arguments(parser)
    add_device_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from sd_scratch.cli.machine import choose_device, choose_dtype, set_threads
    from sd_scratch.cli.output import check_file

    if args.preset in DATA_SETS:
        flags, why = {"prompt": "--prompt", "dtype": "--dtype"}, "is for scenes"
    else:
        flags = {"classes": "--class", "sampler": "--sampler", "film": "--film"}
        why = f"is for {', '.join(DATA_SETS)}"
    refuse_flags(args, flags, why)
    for path in filter(None, (args.output, args.film)):
        check_file(path, args.overwrite)
    set_threads(args.threads)
    device = choose_device(args.device)
    if args.preset in DATA_SETS:
        return pixels.sample(args, device)

    from sd_scratch.checkpoints import load_components
    from sd_scratch.diffusion.noise import random_seed
    from sd_scratch.pictures.grid import save_grid
    from sd_scratch.scenes.captions import full_caption
    from sd_scratch.scenes.evaluate import CHECK_SEED, sample_prompts
    from sd_scratch.scenes.graph import sample_scene

    first = random_seed() if args.seed == -1 else args.seed
    unseen = (sample_scene(CHECK_SEED, i) for i in range(args.rows or 6))
    prompts = args.prompt or [full_caption(scene) for scene in unseen]
    images = sample_prompts(
        load_components(
            args.model or "scenes", dtype=choose_dtype(args.dtype, device), device=device
        ),
        [prompt for prompt in prompts for _ in range(args.batch_count)],
        [first + i for _ in prompts for i in range(args.batch_count)],
        steps=args.steps or 25,
        guidance=args.cfg_scale,
    )
    save_grid(images, args.output, columns=args.batch_count)
    print(args.output)
    return 0
