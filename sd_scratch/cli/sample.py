"""``sd-scratch sample``: a sheet of pictures from a trained model, prompts or classes down and seeds
across."""

import argparse
from pathlib import Path

from sd_scratch.cli import pixels
from sd_scratch.cli.options import integer, number, seed

PRESETS = ("scenes", *pixels.DATA_SETS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("preset", choices=PRESETS, help="which kind of model")
    parser.add_argument("-m", "--model", help="its name or folder (default: the shipped one)")
    parser.add_argument(
        "-p", "--prompt", action="append", help="a row of the sheet (default: scenes unseen before)"
    )
    parser.add_argument("--rows", type=integer(1, 64), help="rows without prompts or classes (6)")
    parser.add_argument("-b", "--batch-count", type=integer(1, 64), default=8, help="columns (8)")
    parser.add_argument("-s", "--seed", type=seed, default=0, help="of the first column (0)")
    parser.add_argument("--steps", type=integer(1, 1000), help="sampling steps (scenes: 25)")
    parser.add_argument("--cfg-scale", type=number(0, 30), help="guidance (default: the model's)")
    parser.add_argument("-o", "--output", type=Path, default=Path("samples.png"))
    pixels.add_sample_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.preset in pixels.DATA_SETS:
        return pixels.sample(args)

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
        load_components(args.model or "scenes"),
        [prompt for prompt in prompts for _ in range(args.batch_count)],
        [first + i for _ in prompts for i in range(args.batch_count)],
        steps=args.steps or 25,
        guidance=args.cfg_scale,
    )
    save_grid(images, args.output, columns=args.batch_count)
    print(args.output)
    return 0
