"""``sd-scratch teach``: the exercises that people learn diffusion with, as a table and a figure."""

import argparse

from sd_scratch.cli.options import a_path

NAMES = ("schedules", "predictors", "unet", "latents", "guidance", "ddim")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=NAMES, help="which exercise")
    parser.add_argument(
        "-o",
        "--output",
        type=a_path,
        metavar="FILE.png",
        help="write the figure (default: the table alone)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")


def run(args: argparse.Namespace) -> int:
    from sd_scratch.cli.output import check_file
    from sd_scratch.files import write_file
    from sd_scratch.pictures.png import encode_png
    from sd_scratch.teaching import get_exercise

    if args.output is not None:
        check_file(args.output, args.overwrite)
    exercise = get_exercise(args.name)
    table = exercise.run()
    print(f"{exercise.question}\n\n{table}")
    if args.output is not None:
        write_file(args.output, encode_png(table.figure), overwrite=args.overwrite)
        print(f"\n{args.output}")
    return 0
