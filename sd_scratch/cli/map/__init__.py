"""``sd-scratch map``: experiments on what in the prompt and the noise makes what in the picture."""

import argparse

from sd_scratch.cli.map import (
    adjust,
    attention,
    faithfulness,
    field,
    film,
    gradient,
    guidance,
    heat,
    latent,
    move,
    noise,
    perturb,
    words,
)
from sd_scratch.cli.options import add_message_arguments

EXPERIMENTS = {
    "attention": attention,
    "words": words,
    "adjust": adjust,
    "perturb": perturb,
    "gradient": gradient,
    "heat": heat,
    "move": move,
    "noise": noise,
    "latent": latent,
    "film": film,
    "guidance": guidance,
    "field": field,
    "faithfulness": faithfulness,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    experiments = parser.add_subparsers(
        metavar="EXPERIMENT", title="experiments", required=True, dest="experiment"
    )
    for name, module in EXPERIMENTS.items():
        experiment = experiments.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(experiment)
        add_message_arguments(experiment)


def run(args: argparse.Namespace) -> int:
    EXPERIMENTS[args.experiment].run(args)
    return 0
