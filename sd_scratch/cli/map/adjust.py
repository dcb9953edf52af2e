"""``sd-scratch map adjust``: pictures of a prompt in which one word is said softer and louder."""

import argparse

from sd_scratch.cli.map.options import LAMBDA, add_origin, add_prompt, add_run, numbers

HELP = "scale a word's vectors: a strip of pictures for a list of lambdas"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_prompt(parser, "to adjust")
    parser.add_argument(
        "--lambdas",
        type=numbers(*LAMBDA),
        metavar="NUMBERS",
        default=[-1.0, -0.5, 0.0, 0.5, 1.0],
        help="a word's vectors are scaled by 1 + lambda (default: -1,-0.5,0,0.5,1)",
    )
    add_origin(parser)
    add_run(parser, samplers=True)


def run(args: argparse.Namespace) -> None:
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.adjustment import adjustment_report

    session = Session(args)
    words = session.words(args.prompt, args.word)
    samplers = args.samplers or [session.recipe.sampler]
    session.perform(
        "adjust",
        len(words) * len(samplers) * len(args.lambdas),
        lambda rendering, prompt: adjustment_report(
            rendering, prompt, words, samplers, args.lambdas, origin=args.origin
        ),
        sampler=",".join(samplers),
    )
