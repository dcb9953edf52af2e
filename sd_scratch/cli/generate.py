"""``sd-scratch generate``: text to pictures."""

import argparse

from sd_scratch.cli.options import (
    a_path,
    a_target,
    add_device_arguments,
    add_model_arguments,
    integer,
)
from sd_scratch.cli.picture_options import add_picture_arguments, add_preview_arguments
from sd_scratch.limits import MAX_BATCH

MAX_PICTURES = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_picture_arguments(parser)
    parser.add_argument_group("from noise").add_argument(
        "--init-noise",
        type=a_path,
        metavar="FILE",
        help="begin with the noise in a file of sd-scratch invert, by its recipe; other flags change it",
    )
    _add_output_arguments(parser)
    add_preview_arguments(parser)
    add_model_arguments(parser)
    add_device_arguments(parser).add_argument(
        "--compile",
        action="store_true",
        help="compile the U-Net: minutes once a machine, model and size, then seconds a start",
    )


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--prompt-file", type=a_path, metavar="FILE", help="a prompt a line: -b pictures of each")
    add(
        "-b",
        "--batch-count",
        type=integer(1, MAX_PICTURES),
        default=1,
        help="how many pictures (default 1)",
    )
    add(
        "--batch-size",
        type=batch_size,
        default=1,
        metavar="N",
        help="how many at a time, or auto: as many as fit into free memory (default 1)",
    )
    add(
        "-o",
        "--output",
        type=a_target,
        help="a file, - for standard output, or a template of {seed} {index} {prompt} {model} "
        "{sampler} {steps} {cfg} {width} {height} (default: out/{seed}-{index:04}.png)",
    )
    add("--overwrite", action="store_true", help="replace files that exist")
    add("--save-latents", type=a_target, metavar="FILE", help="keep the latents, as .safetensors")
    add("--no-metadata", action="store_true", help="store no prompt and settings in the pictures")
    add("--json", action="store_true", help="print one JSON object, not paths")


def batch_size(text: str) -> int:
    """For argparse: 0 stands for as many as fit."""
    return 0 if text == "auto" else integer(1, MAX_BATCH)(text)


def run(args: argparse.Namespace) -> int:
    from sd_scratch.cli.making import generate

    return generate(args)
