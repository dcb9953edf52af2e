"""``sd-scratch map perturb``: where the picture changes when a word is said a little louder."""

import argparse

from sd_scratch.cli.map.options import add_origin, add_prompt, add_run, nonzero

HELP = "where the picture changes when a word's vectors grow a little"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_prompt(parser)
    parser.add_argument(
        "--lambda",
        dest="amount",
        type=nonzero,
        default=0.15,
        help="a word's vectors are scaled by 1 + lambda (default: 0.15)",
    )
    add_origin(parser)
    add_run(parser)


def run(args: argparse.Namespace) -> None:
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.perturbation import perturbation_report

    session = Session(args)
    session.require_full_precision()
    words = session.words(args.prompt, args.word)
    session.perform(
        "perturb",
        1 + len(words),
        lambda rendering, prompt: perturbation_report(
            rendering, prompt, words, amount=args.amount, origin=args.origin
        ),
    )
