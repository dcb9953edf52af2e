"""Arguments that several experiments share."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from sd_scratch.cli.options import (
    add_clip_skip_argument,
    add_device_arguments,
    add_guidance_argument,
    add_model_arguments,
    add_size_arguments,
    integer,
    number,
    seed,
)
from sd_scratch.cli.picture_options import add_lora_arguments
from sd_scratch.limits import STEPS

LAMBDA = (-1000.0, 1000.0)


def add_prompt(parser: argparse.ArgumentParser, words: str = "to map") -> None:
    parser.add_argument("prompt", metavar="PROMPT", help="what to show")
    parser.add_argument(
        "-w",
        "--word",
        action="append",
        default=[],
        help=f"a word of the prompt {words}, cat:2 for the second cat (default: every word)",
    )


def add_layers_and_heads(parser: argparse.ArgumentParser) -> None:
    """Of the text encoder."""
    parser.add_argument("--layers", type=integers, default=[], help="such as 0,3 (default: all)")
    parser.add_argument("--heads", type=integers, default=[], help="such as 0,1 (default: all)")


def add_origin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--origin",
        choices=("zero", "empty"),
        default="zero",
        help="what a word is scaled away from: zero, or what the empty prompt has in its place",
    )


def add_run(
    parser: argparse.ArgumentParser, *, samplers: bool = False, resume: bool = True
) -> None:
    """Everything about the run but the prompt, and where the results go."""
    run = parser.add_argument_group("run (default: the model's own)")
    run.add_argument(
        "--thesis",
        action="store_true",
        help="the source's settings where no other is given: Stable Diffusion v1-4, 250 steps, "
        "guidance 7.5, 512x512, pndm",
    )
    run.add_argument("-n", "--negative-prompt", default="", help="what to steer away from")
    add_size_arguments(run, "pixels")
    add_sampling(
        run,
        "-1 draws one (default: 0)",
        "default: 8 up to 128x128 pixels, else 1",
        samplers=samplers,
    )
    if resume:
        add_resume(parser)
    add_model(parser)


def add_sampling(
    run: argparse._ActionsContainer, seed_of: str, batch: str, *, samplers: bool = False
) -> None:
    """Where a run starts, and how it goes on; several `samplers` are told apart by some experiments."""
    run.add_argument("-s", "--seed", type=seed, default=0, help=seed_of)
    run.add_argument("--steps", type=integer(*STEPS), help="1 to 1000")
    add_guidance_argument(run, "classifier-free guidance: 1 for none")
    if samplers:
        run.add_argument(
            "--samplers", type=texts, metavar="NAMES", help="one or several, such as lms,ddim,pndm"
        )
    else:
        run.add_argument("--sampler", metavar="NAME", help="ddim, pndm, lms, ...")
    run.add_argument("--batch-size", type=integer(1, 256), help=f"pictures at a time ({batch})")


def add_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume", action="store_true", help="go on in the folder of -o; nothing is made twice"
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Where the results go."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="(default: out/EXPERIMENT-NUMBER)"
    )
    group.add_argument("--overwrite", action="store_true", help="replace results that are there")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model, and where the results go."""
    add_output(parser)
    add_model_arguments(parser)
    add_clip_skip_argument(parser)
    add_lora_arguments(parser)
    add_device_arguments(parser)


def texts(text: str) -> list[str]:
    """A type for argparse: texts between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(low: float, high: float) -> Callable[[str], list[float]]:
    """A type for argparse: numbers between commas, at least one."""

    def parse(text: str) -> list[float]:
        values = [number(low, high)(part) for part in texts(text)]
        if not values:
            raise argparse.ArgumentTypeError("the list is empty - give some, such as -1,0,1")
        return values

    return parse


def nonzero(text: str) -> float:
    """A type for argparse: a lambda that changes something."""
    value = number(*LAMBDA)(text)
    if math.isclose(value, 0.0, abs_tol=1e-9):
        raise argparse.ArgumentTypeError("0 changes nothing - give another number")
    return value


def integers(text: str) -> list[int]:
    """A type for argparse: whole numbers between commas, at least one."""
    values = [integer(0, 999)(part) for part in texts(text)]
    if not values:
        raise argparse.ArgumentTypeError("the list is empty - give some, such as 0,1")
    return values


def call_range(text: str) -> slice:
    """A type for argparse: ``FROM:TO``, either of which may be left out."""
    first, colon, last = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not FROM:TO, such as 0:10")
    ends = [integer(0, 100_000)(end) if end.strip() else None for end in (first, last)]
    return slice(*ends)
