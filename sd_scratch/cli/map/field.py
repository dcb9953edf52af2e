"""``sd-scratch map field``: the score's field and samplers' paths in it, in two dimensions."""

import argparse

from sd_scratch.cli.map.options import add_output, texts
from sd_scratch.cli.options import integer, number, seed

HELP = "the score's field and samplers' paths in it, in two dimensions, without a model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--points",
        type=texts,
        metavar="X:Y,...",
        help="the data, from -2.6 to 2.6 (default: 0:1.3,1.2:-0.7,-1.2:-0.7)",
    )
    parser.add_argument(
        "--width", type=number(0.01, 1), default=0.08, help="of each blurred point (default: 0.08)"
    )
    parser.add_argument(
        "--samplers",
        type=texts,
        metavar="NAMES",
        default=["ddim", "euler_a", "dpmpp_2m"],
        help="a row each (default: ddim,euler_a,dpmpp_2m)",
    )
    parser.add_argument("--steps", type=integer(1, 1000), default=25, help="(default: 25)")
    parser.add_argument(
        "--paths", type=integer(1, 200), default=12, help="samples that are followed (default: 12)"
    )
    parser.add_argument("-s", "--seed", type=seed, default=0, help="-1 draws one (default: 0)")
    add_output(parser)


def run(args: argparse.Namespace) -> None:
    from sd_scratch.cli.map.results import Results
    from sd_scratch.diffusion.samplers import get_sampler
    from sd_scratch.mapping.field import POINTS, field_report, make_blobs, read_points
    from sd_scratch.pipeline.complete import drawn
    from sd_scratch.pipeline.recipe import Recipe

    for name in args.samplers:
        get_sampler(name)
    points = POINTS if args.points is None else read_points(args.points)
    blobs = make_blobs(points, args.width)
    number_of_run = drawn(args.seed)
    results = Results(args.output, "field", overwrite=args.overwrite)
    report = field_report(blobs, args.samplers, args.steps, args.paths, number_of_run)
    recipe = Recipe(
        prompt="", seed=number_of_run, steps=args.steps, sampler=",".join(args.samplers)
    )
    results.save(report, recipe)
