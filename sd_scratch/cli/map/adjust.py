"""``sd-scratch map adjust``: pictures of a prompt in which one word is said softer and louder."""

import argparse
import re

from sd_scratch.cli.map.options import LAMBDA, add_origin, add_prompt, add_run, numbers

HELP = "scale a word's vectors: a strip of pictures for a list of lambdas"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # So that a list may start with a minus: "-1,0,1" is no flag.
    parser._negative_number_matcher = re.compile(r"^-(\d|\.\d)")
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
    from sd_scratch.cli.map.results import Results, numbered
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.adjustment import adjust
    from sd_scratch.mapping.drawing import Cell, picture, sheet

    session = Session(args)
    words = session.words(args.prompt, args.word)
    results = Results(args.output, "adjust", overwrite=args.overwrite)
    samplers = args.samplers or [session.recipe.sampler]
    prompt = session.encode(args.prompt)
    origin = "zero" if args.origin == "zero" else "the empty prompt's vectors"
    with session.progress(len(words) * len(samplers) * len(args.lambdas)) as bar:
        rendering = session.rendering(bar.update)
        for name, word in zip(numbered([w.text for w in words]), words, strict=True):
            strips = {
                sampler: adjust(
                    rendering.with_settings(sampler=sampler),
                    prompt,
                    word,
                    args.lambdas,
                    origin=args.origin,
                )
                for sampler in samplers
            }
            rows = [
                [
                    Cell(picture(pixels), f"lambda {amount:g}")
                    for amount, pixels in zip(args.lambdas, strip, strict=True)
                ]
                for strip in strips.values()
            ]
            figure = sheet(
                f"“{word.text}” times 1 + lambda",
                rows,
                row_labels=samplers if len(samplers) > 1 else (),
                notes=[
                    f"Prompt: {args.prompt}",
                    f"All pictures start from the same noise (seed {session.recipe.seed}); only the "
                    f"vectors of “{word.text}” change, scaled from {origin}. Lambda 0 is the prompt as "
                    "it is; -1 takes the word's own vectors away, but the words behind it have heard "
                    "of it.",
                ],
            )
            results.picture(f"{name}.png", figure)
            results.tensors(f"{name}.safetensors", strips)
    results.settings(
        session.recipe.over(sampler=",".join(samplers)),
        words=[word.text for word in words],
        lambdas=args.lambdas,
        origin=args.origin,
    )
