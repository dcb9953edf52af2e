"""``sd-scratch map words``: how much attention each word of a prompt gets in the text encoder."""

import argparse

from sd_scratch.cli.map.options import add_layers_and_heads, add_model

HELP = "how much attention each word gets in the text encoder, for one prompt or several"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", nargs="+", help="one, or several to compare")
    parser.add_argument(
        "--special", action="store_true", help="count the start and end tokens and the padding, too"
    )
    parser.add_argument(
        "--by-layer", action="store_true", help="also one row of bars for every layer"
    )
    add_layers_and_heads(parser)
    add_model(parser)


def run(args: argparse.Namespace) -> None:
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.text_attention import text_attention, words_report
    from sd_scratch.mapping.words import check_places

    session = Session(args)
    for text in args.prompt:
        session.words(text, [])
    config = session.layout.config.text
    check_places("layer", args.layers, config.num_hidden_layers)
    check_places("head", args.heads, config.num_attention_heads)
    results = session.results("words")
    skip = session.recipe.clip_skip or 1
    reads = [text_attention(session.model, text, clip_skip=skip) for text in args.prompt]
    report = words_report(
        reads, layers=args.layers, heads=args.heads, special=args.special, by_layer=args.by_layer
    )
    results.save(report, session.text_recipe)
