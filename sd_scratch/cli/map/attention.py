"""``sd-scratch map attention``: what the prompt's tokens look at inside the text encoder."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sd_scratch.cli.map.options import add_model, integers

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

HELP = "the text encoder's attention, per layer and head, for all tokens and for the words"
PANEL = 96  # pixels that one layer and head gets at least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help="what is read")
    parser.add_argument("--layers", type=integers, default=[], help="such as 0,3 (default: all)")
    parser.add_argument("--heads", type=integers, default=[], help="such as 0,1 (default: all)")
    add_model(parser)


def run(args: argparse.Namespace) -> None:
    from sd_scratch.cli.map.results import Results
    from sd_scratch.cli.map.session import Session, check_places
    from sd_scratch.mapping.charts import matrix_chart
    from sd_scratch.mapping.drawing import Cell, sheet
    from sd_scratch.mapping.text_attention import text_attention

    session = Session(args)
    session.words(args.prompt, [])
    config = session.layout.config.text
    layers = check_places("layer", args.layers, config.num_hidden_layers)
    heads = check_places("head", args.heads, config.num_attention_heads)
    results = Results(args.output, "attention", overwrite=args.overwrite)
    read = text_attention(session.model, args.prompt, clip_skip=session.recipe.clip_skip or 1)
    layers = [layer for layer in layers if layer < len(read.probs)]  # clip skip leaves some out

    def chosen(values: "Tensor") -> "Tensor":
        return values[layers][:, heads]

    note = f"Prompt: {args.prompt}"
    how = "Each row is one that looks, each column one that is looked at; a row sums to 1."
    tokens = chosen(read.probs)
    figure = panels(
        "Attention between all tokens, in every layer and head",
        tokens,
        [note, how + " The first column is the start token; what follows the text is padding."],
        (layers, heads),
    )
    results.picture("tokens.png", figure)
    words = chosen(read.between_words())
    names = ", ".join(read.labels())
    figure = panels(
        "Attention between words, in every layer and head",
        words,
        [note, f"From top to bottom, and from left to right: {names}."],
        (layers, heads),
    )
    results.picture("words.png", figure)

    mean = chosen(read.between_words(special=True)).mean(dim=(0, 1))
    labels = read.labels(special=True)
    chart = Cell(matrix_chart(mean, labels, labels, float(mean.max())), enlarge=False)
    title = f"Who looks at whom: the mean over {len(layers)} layers and {len(heads)} heads"
    more = "A word gets what its tokens get together, and gives what they give on average."
    results.picture("mean.png", sheet(title, [[chart]], notes=[note, how, more]))

    results.tensors("attention.safetensors", {"tokens": tokens, "words": words})
    shares = chosen(read.between_words(special=True))
    results.table(
        "attention.csv",
        ("layer", "head", "from", "to", "share"),
        [
            (layers[i], heads[j], giver, receiver, float(shares[i, j, a, b]))
            for i in range(len(layers))
            for j in range(len(heads))
            for a, giver in enumerate(labels)
            for b, receiver in enumerate(labels)
        ],
    )
    results.settings(session.text_recipe, layers=layers, heads=heads, tokens=read.tokens)


def panels(
    title: str,
    values: "Tensor",
    notes: Sequence[str],
    axes: tuple[Sequence[int], Sequence[int]],
) -> "Image.Image":
    """A matrix for each layer (down) and head (across), all on one scale."""
    from PIL import ImageOps

    from sd_scratch.mapping.charts import heat_matrix, matrix_scale
    from sd_scratch.mapping.drawing import RULE, Cell, sheet

    layers, heads = axes
    side = values.shape[-1]
    size = side * max(1, -(-PANEL // side))
    top = float(values.max())

    def panel(matrix: "Tensor") -> "Image.Image":
        return ImageOps.expand(heat_matrix(matrix, top).resize((size, size), 0), 1, RULE)

    rows = [
        [Cell(panel(values[i, j]), f"head {head}", enlarge=False) for j, head in enumerate(heads)]
        for i in range(len(layers))
    ]
    labels = [f"layer {layer}" for layer in layers]
    return sheet(title, rows, notes=notes, row_labels=labels, foot=matrix_scale(top))
