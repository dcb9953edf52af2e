"""``sd-scratch trace``: make pictures, and store named tensors of the run."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sd_scratch.cli.console import INTERRUPTED
from sd_scratch.cli.options import (
    a_name,
    a_path,
    add_device_arguments,
    add_model_arguments,
    dtype,
    integer,
)
from sd_scratch.cli.picture_options import add_picture_arguments
from sd_scratch.errors import log
from sd_scratch.limits import DTYPES, MAX_BATCH, are_digits, read_integer

if TYPE_CHECKING:
    from PIL import Image

    from sd_scratch.pipeline.recipe import Recipe

TRACE_FILES = ("manifest.json", "*.safetensors", "*.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_picture_arguments(parser)
    group = parser.add_argument_group("trace")
    add = group.add_argument
    add(
        "--tensors",
        action="append",
        required=True,
        metavar="GLOB",
        help="which, such as 'unet.*.attn2.probs'; may be given several times",
    )
    add("-o", "--output", type=a_path, required=True, metavar="FOLDER", help="a new one")
    add("--overwrite", action="store_true", help="replace the trace that is there")
    add(
        "--calls",
        type=span,
        metavar="FROM:TO:EVERY",
        help="of the U-Net, counted from 0, each part may be left out (default: all)",
    )
    add("--branch", choices=("cond", "uncond", "perturbed"), help="one alone (default: all)")
    add("--words", type=a_name, metavar="CAT,MAT:2", help="keep these words in place of all tokens")
    add("--mean-heads", action="store_true", help="keep the mean over attention heads")
    add("--mean-calls", action="store_true", help="keep the mean over the calls")
    add("--store", type=dtype, choices=DTYPES, help="precision of what is stored")
    add("--budget", default="4GB", metavar="SIZE", help="refuse to store more (default: 4GB)")
    add("-b", "--batch-count", type=integer(1, MAX_BATCH), default=1, help="how many pictures")
    add_model_arguments(parser)
    add_device_arguments(parser)
    parser.set_defaults(compile=False, prompt_file=None, init_noise=None)


def run(args: argparse.Namespace) -> int:
    from sd_scratch.cli.console import stop_on_ctrl_c
    from sd_scratch.cli.control import read_hints
    from sd_scratch.cli.init_image import begin_with_init_image
    from sd_scratch.cli.load import load_model
    from sd_scratch.cli.making import make_all
    from sd_scratch.cli.output import check_folder
    from sd_scratch.cli.request import read_request, sampler_options
    from sd_scratch.cli.tensors import without_weights
    from sd_scratch.files import check_new_folder, new_folder
    from sd_scratch.tensors.record import budget_bytes, show_bytes

    options = sampler_options(args)
    recipe = read_request(args)
    if args.overwrite:  # another trace alone, and as a whole
        check_new_folder(args.output, TRACE_FILES)
    else:
        check_folder(args.output, overwrite=False)
    recording = recording_options(args)
    budget_bytes(args.budget)
    if not recipe.controls:  # whose tensors are only known from their files
        bare = without_weights(recipe.model, DTYPES[0], recipe.revision, args.offline)
        bare.tensors(*args.tensors)

    hints = read_hints(args)
    model, recipe = load_model(args, recipe, options)
    args.batch_size = args.batch_count  # one recording holds one run
    begun = begin_with_init_image(args, model, recipe)
    with stop_on_ctrl_c() as stop, model.record(*args.tensors, **recording) as trace:
        batches = list(make_all([(model, recipe)], args, begun, hints, stop))
        pictures = [picture for made in batches for picture in made.to_pil()]
    if not batches:
        log.warning("interrupted: nothing was stored")
        return INTERRUPTED
    digest = model.components.hash or None
    recipes = [one.over(model_hash=digest) for made in batches for one in made.recipes]
    with new_folder(args.output, TRACE_FILES if args.overwrite else ()) as folder:
        trace.save(folder)
        save_pictures(pictures, recipes, folder)
    log.info(f"{len(trace.names)} tensors, {show_bytes(trace.bytes)}")
    print(args.output)
    return 0


def recording_options(args: argparse.Namespace) -> dict[str, Any]:
    """The flags as `Recorder` has them."""
    import torch

    from sd_scratch.tensors.reductions import heads, mean_over_calls, words

    reduce: list[Any] = [heads()] if args.mean_heads else []
    if args.words:
        reduce.append(words(*map(word_key, args.words.split(","))))
    if args.mean_calls:
        reduce.append(mean_over_calls())
    return {
        "calls": args.calls,
        "branch": args.branch or ("cond" if args.words else None),
        "reduce": reduce,
        "to": "cpu",
        "dtype": getattr(torch, args.store) if args.store else None,
        "budget": args.budget,
    }


def save_pictures(pictures: "list[Image.Image]", recipes: "list[Recipe]", folder: Path) -> None:
    from sd_scratch.dialects.stored_recipe import encode_picture
    from sd_scratch.files import write_file

    for picture, recipe in zip(pictures, recipes, strict=True):
        number = recipe.subseed if recipe.subseed_strength else recipe.seed
        write_file(folder / f"{number}.png", encode_picture(picture, recipe))


def word_key(text: str) -> str | tuple[str, int]:
    """``cat``, or ``cat:2`` for the second one."""
    word, colon, number = text.strip().rpartition(":")
    return (word, int(number)) if colon and are_digits(number) else text.strip()


def span(text: str) -> int | slice:
    """A type for argparse: one number, or FROM:TO:EVERY, as Python counts."""
    try:
        parts = [read_integer(part) if part else None for part in text.split(":")]
        if any(
            part and number is None for part, number in zip(text.split(":"), parts, strict=True)
        ):
            raise TypeError
        chosen = slice(*parts)
    except TypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not FROM:TO:EVERY") from None
    if chosen.step is not None and chosen.step < 1:
        raise argparse.ArgumentTypeError(f"{text!r} does not go forward")
    if len(parts) > 1 and not range(sys.maxsize)[chosen]:
        raise argparse.ArgumentTypeError(f"{text!r} holds no call: FROM must be before TO")
    return parts[0] if len(parts) == 1 and parts[0] is not None else chosen
