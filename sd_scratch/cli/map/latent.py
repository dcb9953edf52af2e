"""``sd-scratch map latent``: what stands in the channels of a latent."""

import argparse

from sd_scratch.cli.map.options import add_run

HELP = "the channels of a picture's latent, and the picture without each of them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help="what to show")
    add_run(parser, resume=False)


def run(args: argparse.Namespace) -> None:
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.latent import latent_report

    Session(args).perform("latent", 1, latent_report)
