"""Arguments of the experiments. Imports nothing heavy."""

import argparse
import math
from collections.abc import Callable

from sd_scratch.cli.options import (
    a_name,
    a_path,
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
from sd_scratch.limits import GUIDANCE, STEPS

LAMBDA = (-1000.0, 1000.0)
CLIP_OF = {"scenes": "scenes-clip"}  # by the model's name
DEFAULT_CLIP = "openai/clip-vit-base-patch32"
WITHOUT = "none"  # CLIP
PROMPTS = {
    "astronaut": (
        "a photograph of an astronaut in space",
        "a photograph of an astronaut riding an elephant",
        "a photograph of a traveller far from home",
        "a picture of a long journey",
        "longing",
    ),
    "scenes": (
        "a large red star to the left of a small blue circle on a white background",
        "a red star and a blue circle",
        "a red star",
        "a star",
        "a shape",
    ),
}
"""Five prompts each, every one of which says less than the one before. The source gives two of its
five, the first two of ``astronaut``."""

# Of `faithfulness`.
SCENES, CHECKS = 200, 20
QUICK_SCENES, QUICK_CHECKS = 8, 1
BATCH = 32


def texts(text: str) -> list[str]:
    """A type for argparse: texts between commas, at least one."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise argparse.ArgumentTypeError("the list is empty - give some between commas")
    return parts


def numbers(low: float, high: float) -> Callable[[str], list[float]]:
    """A type for argparse: numbers between commas, at least one."""

    return lambda text: [number(low, high)(part) for part in texts(text)]


def nonzero(text: str) -> float:
    """A type for argparse: a lambda that changes something."""
    value = number(*LAMBDA)(text)
    if math.isclose(value, 0.0, abs_tol=1e-9):
        raise argparse.ArgumentTypeError("0 changes nothing - give another number")
    return value


def integers(text: str) -> list[int]:
    """A type for argparse: whole numbers between commas, at least one."""
    return [integer(0, 999)(part) for part in texts(text)]


def call_range(text: str) -> slice:
    """A type for argparse: ``FROM:TO``, either of which may be left out."""
    first, colon, last = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not FROM:TO, such as 0:10")
    ends = [integer(0, 100_000)(end) if end.strip() else None for end in (first, last)]
    return slice(*ends)


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
    add = run.add_argument
    add("-s", "--seed", type=seed, default=0, help=seed_of)
    add("--steps", type=integer(*STEPS), help="1 to 1000")
    add_guidance_argument(run, "classifier-free guidance: 1 for none")
    if samplers:
        add("--samplers", type=texts, metavar="NAMES", help="one or several, such as lms,ddim,pndm")
    else:
        add("--sampler", type=a_name, metavar="NAME", help="ddim, pndm, lms, ...")
    add("--batch-size", type=integer(1, 256), help=f"pictures at a time ({batch})")


def add_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume", action="store_true", help="go on in the folder of -o; nothing is made twice"
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Where the results go."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o", "--output", type=a_path, metavar="FOLDER", help="(default: out/EXPERIMENT-NUMBER)"
    )
    group.add_argument("--overwrite", action="store_true", help="replace results that are there")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model, and where the results go."""
    add_output(parser)
    add_model_arguments(parser)
    add_clip_skip_argument(parser)
    add_lora_arguments(parser)
    add_device_arguments(parser)


# One for each experiment ------------------------------------------------------------------


def add_attention(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help="what is read")
    add_layers_and_heads(parser)
    add_model(parser)


def add_words(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prompt", metavar="PROMPT", nargs="+", help="one, or several to compare")
    add(
        "--special", action="store_true", help="count the start and end tokens and the padding, too"
    )
    add("--by-layer", action="store_true", help="also one row of bars for every layer")
    add_layers_and_heads(parser)
    add_model(parser)


def add_adjust(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_prompt(parser, "to adjust")
    add(
        "--lambdas",
        type=numbers(*LAMBDA),
        metavar="NUMBERS",
        default=[-1.0, -0.5, 0.0, 0.5, 1.0],
        help="a word's vectors are scaled by 1 + lambda (default: -1,-0.5,0,0.5,1)",
    )
    add_origin(parser)
    add_run(parser, samplers=True)


def add_perturb(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_prompt(parser)
    add(
        "--lambda",
        dest="amount",
        type=nonzero,
        default=0.15,
        help="a word's vectors are scaled by 1 + lambda (default: 0.15)",
    )
    add_origin(parser)
    add_run(parser)


def add_gradient(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_prompt(parser)
    add(
        "--method",
        choices=("central", "forward", "exact"),
        default="central",
        help="difference to both sides, to one as in the source, or the exact derivative by "
        "forward-mode differentiation (default: central)",
    )
    add(
        "--lambda",
        dest="amount",
        type=nonzero,
        default=0.01,
        help="a difference scales the word's vectors by 1 + lambda (default: 0.01)",
    )
    add_origin(parser)
    add_run(parser)


def add_heat(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_prompt(parser)
    add(
        "--ask",
        type=a_name,
        metavar="PROMPT",
        help="map the words of this prompt instead; the picture stays",
    )
    add("--layers", type=texts, default=[], metavar="GLOBS", help="such as '*up*,*mid*'")
    add("--heads", type=integers, default=[], help="such as 0,1 (default: all)")
    add(
        "--calls",
        type=call_range,
        default=slice(None),
        metavar="FROM:TO",
        help="of the U-Net, from 0, without TO; 0:10 are the first ten (default: all)",
    )
    add_run(parser, resume=False)


def add_move(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "prompt", metavar="PROMPT", nargs="+", help="the landmarks: similar prompts, at least three"
    )
    add(
        "--path",
        type=texts,
        metavar="PLACES",
        help="landmarks by number and places by X:Y, such as 1,3,20:-5 (default: all landmarks, in "
        "order)",
    )
    add("--frames", type=integer(2, 1000), default=12, help="pictures on the way (default: 12)")
    add("--components", type=integer(2, 16), default=2, help=argparse.SUPPRESS)
    add(
        "--interactive",
        action="store_true",
        help="go by arrow keys from the first landmark; q ends",
    )
    add(
        "--stride",
        type=number(1e-6, 1e6),
        help="how far an arrow key goes (default: a tenth of the plane)",
    )
    add_run(parser)


def add_noise(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prompt", metavar="PROMPT", nargs="*", help="one, or several to compare")
    add(
        "--prompts",
        choices=tuple(PROMPTS),
        help="five ready prompts instead, each of which says less than the one before",
    )
    add(
        "--seeds", type=integer(2, 1_000_000), default=16, help="how many, from -s on (default: 16)"
    )
    add(
        "--clip",
        type=a_name,
        metavar="MODEL",
        help="CLIP for the scores: a shipped one by name, a folder, a hub id, or "
        f"{WITHOUT} (default: scenes-clip for scenes, else {DEFAULT_CLIP})",
    )
    add_run(parser)


def add_latent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help="what to show")
    add_run(parser, resume=False)


add_film = add_latent


def add_guidance(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prompt", metavar="PROMPT", help="what to show")
    add(
        "--scales",
        type=numbers(*GUIDANCE),
        metavar="NUMBERS",
        default=[0.0, 1.0, 7.5, 20.0],
        help="0 does not listen to the prompt, 1 is the prompt alone (default: 0,1,7.5,20)",
    )
    add("--seeds", type=integer(1, 100), default=2, help="rows, from -s on (default: 2)")
    add_run(parser)


def add_field(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--points",
        type=texts,
        metavar="X:Y,...",
        help="the data, from -2.6 to 2.6 (default: 0:1.3,1.2:-0.7,-1.2:-0.7)",
    )
    add("--width", type=number(0.01, 1), default=0.08, help="of each blurred point (default: 0.08)")
    add(
        "--samplers",
        type=texts,
        metavar="NAMES",
        default=["ddim", "euler_a", "dpmpp_2m"],
        help="a row each (default: ddim,euler_a,dpmpp_2m)",
    )
    add("--steps", type=integer(1, 1000), default=25, help="(default: 25)")
    add("--paths", type=integer(1, 200), default=12, help="samples that are followed (default: 12)")
    add("-s", "--seed", type=seed, default=0, help="-1 draws one (default: 0)")
    add_output(parser)


def add_faithfulness(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--scenes", type=integer(2, 100_000), metavar="N", help=f"how many (default: {SCENES})")
    add(
        "--checks",
        type=integer(0, 100_000),
        metavar="N",
        help="of them also with cut attention, an untrained U-Net and other samplers (default: "
        f"{CHECKS})",
    )
    add(
        "--quick",
        action="store_true",
        help=f"{QUICK_SCENES} scenes and {QUICK_CHECKS} checked, to see what it does",
    )
    add_resume(parser)
    run = parser.add_argument_group("run (default: the model's own)")
    add_sampling(run, "of the first scene's noise (0)", f"default: {BATCH}")
    add_model(parser)
