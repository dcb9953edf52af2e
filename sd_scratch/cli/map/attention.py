"""``sd-scratch map attention``: what the prompt's tokens look at inside the text encoder."""

import argparse

from sd_scratch.cli.map.options import add_layers_and_heads, add_model

HELP = "the text encoder's attention, per layer and head, for all tokens and for the words"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help="what is read")
    add_layers_and_heads(parser)
    add_model(parser)


def run(args: argparse.Namespace) -> None:
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.text_attention import attention_report, text_attention
    from sd_scratch.mapping.words import check_places

    session = Session(args)
    session.words(args.prompt, [])
    config = session.layout.config.text
    layers = check_places("layer", args.layers, config.num_hidden_layers)
    heads = check_places("head", args.heads, config.num_attention_heads)
    results = session.results("attention")
    read = text_attention(session.model, args.prompt, clip_skip=session.recipe.clip_skip or 1)
    results.save(attention_report(read, layers, heads), session.text_recipe)
