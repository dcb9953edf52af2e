"""``sd-scratch map guidance``: one prompt at several scales of classifier-free guidance."""

import argparse

from sd_scratch.cli.map.options import add_run, numbers
from sd_scratch.cli.options import integer
from sd_scratch.errors import UsageError
from sd_scratch.limits import GUIDANCE, SEED

HELP = "what guidance does: pictures of one prompt at several scales"
SCALES = [0.0, 1.0, 7.5, 20.0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help="what to show")
    parser.add_argument(
        "--scales",
        type=numbers(*GUIDANCE),
        metavar="NUMBERS",
        default=SCALES,
        help="0 does not listen to the prompt, 1 is the prompt alone (default: 0,1,7.5,20)",
    )
    parser.add_argument(
        "--seeds", type=integer(1, 100), default=2, help="rows, from -s on (default: 2)"
    )
    add_run(parser)


def run(args: argparse.Namespace) -> None:
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.latent import guidance_report

    if args.cfg_scale is not None:
        raise UsageError("--cfg-scale is what this experiment varies - give --scales")
    args.cfg_scale = max(args.scales, key=abs)  # what the warnings are about
    session = Session(args)
    first = session.recipe.seed or 0
    if first + args.seeds - 1 > SEED[1]:
        raise UsageError("the last row's seed would exceed 2^64-1 - choose a smaller one")
    seeds = range(first, first + args.seeds)
    session.perform(
        "guidance",
        len(args.scales) * args.seeds,
        lambda rendering, prompt: guidance_report(rendering, prompt, args.scales, seeds),
        guidance=args.scales[0],
    )
