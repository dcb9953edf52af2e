"""``sd-scratch map film``: how a picture comes out of noise."""

import argparse

from sd_scratch.cli.map.options import add_run

HELP = "how a picture comes out of noise: x_t and x0 at every step, as a film"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help="what to show")
    add_run(parser, resume=False)


def run(args: argparse.Namespace) -> None:
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.latent import film_report

    Session(args).perform("film", 1, film_report)
