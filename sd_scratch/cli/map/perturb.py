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
    from sd_scratch.cli.map.figures import save_maps
    from sd_scratch.cli.map.results import Results
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.drawing import picture
    from sd_scratch.mapping.perturbation import perturbation_maps

    session = Session(args)
    session.require_full_precision()
    words = session.words(args.prompt, args.word)
    results = Results(args.output, "perturb", overwrite=args.overwrite)
    prompt = session.encode(args.prompt)
    with session.progress(1 + len(words)) as bar:
        original, maps = perturbation_maps(
            session.rendering(bar.update), prompt, words, amount=args.amount, origin=args.origin
        )
    notes = [
        f"Prompt: {args.prompt}",
        "Grey: the absolute difference of two pictures from the same noise, with and without the "
        f"word's vectors times {1 + args.amount:g}. Colours: one a word, the more opaque the larger "
        "the difference; all on one scale.",
    ]
    save_maps(results, "Where each word changes the picture", picture(original), maps, notes)
    results.settings(
        session.recipe,
        words=[word.text for word in words],
        **{"lambda": args.amount},
        origin=args.origin,
    )
