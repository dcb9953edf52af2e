"""``sd-scratch map gradient``: how fast each pixel changes as a word's vectors grow."""

import argparse

from sd_scratch.cli.map.options import add_origin, add_prompt, add_run, nonzero

HELP = "how fast each pixel changes as a word's vectors grow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_prompt(parser)
    parser.add_argument(
        "--method",
        choices=("central", "forward", "exact"),
        default="central",
        help="difference to both sides, to one as in the source, or the exact derivative by "
        "forward-mode differentiation (default: central)",
    )
    parser.add_argument(
        "--lambda",
        dest="amount",
        type=nonzero,
        default=0.01,
        help="a difference scales the word's vectors by 1 + lambda (default: 0.01)",
    )
    add_origin(parser)
    add_run(parser)


def run(args: argparse.Namespace) -> None:
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.gradient import count_pictures, gradient_report

    session = Session(args)
    if args.method != "exact":
        session.require_full_precision()
    words = session.words(args.prompt, args.word)
    how = {"method": args.method, "amount": args.amount, "origin": args.origin}
    session.perform(
        "gradient",
        count_pictures(len(words), args.method),
        lambda rendering, prompt: gradient_report(rendering, prompt, words, **how),
    )
