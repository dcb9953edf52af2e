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
    from sd_scratch.cli.map.figures import save_maps
    from sd_scratch.cli.map.results import Results
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.drawing import picture
    from sd_scratch.mapping.gradient import gradient_maps

    session = Session(args)
    if args.method != "exact":
        session.require_full_precision()
    words = session.words(args.prompt, args.word)
    results = Results(args.output, "gradient", overwrite=args.overwrite)
    prompt = session.encode(args.prompt)
    pictures = {"central": 1 + 2 * len(words), "forward": 1 + len(words), "exact": len(words)}
    with session.progress(pictures[args.method]) as bar:
        colours, maps = gradient_maps(
            session.rendering(bar.update),
            prompt,
            words,
            method=args.method,
            amount=args.amount,
            origin=args.origin,
        )
    notes = [
        f"Prompt: {args.prompt}",
        f"Grey: the derivative of the picture along each word's vectors ({maps[0].method}), its "
        "length over the three colours. Colours: one a word, the more opaque the larger the "
        "derivative; all on one scale.",
    ]
    pixels = (colours.clamp(0, 1) * 255).round().byte()
    save_maps(results, "How fast each word changes the picture", picture(pixels), maps, notes)
    more = {} if args.method == "exact" else {"lambda": args.amount}
    results.settings(
        session.recipe,
        words=[word.text for word in words],
        method=args.method,
        **more,
        origin=args.origin,
    )
