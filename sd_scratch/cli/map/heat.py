"""``sd-scratch map heat``: which places of the picture look at which word."""

import argparse
from typing import TYPE_CHECKING

from sd_scratch.cli.map.options import add_prompt, add_run, call_range, integers, texts

if TYPE_CHECKING:
    from sd_scratch.mapping.rendering import Rendering
    from sd_scratch.mapping.report import Report
    from sd_scratch.pipeline.prompt import Prompt

HELP = "which places look at which word in the U-Net's cross-attention"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_prompt(parser)
    parser.add_argument(
        "--ask", metavar="PROMPT", help="map the words of this prompt instead; the picture stays"
    )
    parser.add_argument(
        "--layers", type=texts, default=[], metavar="GLOBS", help="such as '*up*,*mid*'"
    )
    parser.add_argument("--heads", type=integers, default=[], help="such as 0,1 (default: all)")
    parser.add_argument(
        "--calls",
        type=call_range,
        default=slice(None),
        metavar="FROM:TO",
        help="of the U-Net, from 0, without TO; 0:10 are the first ten (default: all)",
    )
    add_run(parser, resume=False)


def run(args: argparse.Namespace) -> None:
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.heat import choose_layers, heat_report
    from sd_scratch.mapping.words import check_places

    session = Session(args)
    words = session.words(args.ask or args.prompt, args.word)
    layers = choose_layers(session.cross_attention_layers(), args.layers)
    check_places("head", args.heads, session.layout.config.unet.heads(0))
    which = {"layers": layers, "heads": args.heads, "calls": args.calls}

    def report(rendering: "Rendering", prompt: "Prompt") -> "Report":
        asked = session.encode(args.ask) if args.ask else None
        return heat_report(rendering, prompt, words, asked, **which)

    session.perform("heat", 1, report)
