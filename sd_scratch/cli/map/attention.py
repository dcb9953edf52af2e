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
NAMED = 14  # pixels that a word gets where it is named
BORDER = (235, 130, 30)  # where the text ends and the padding begins


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
    from sd_scratch.mapping.text_attention import END, text_attention

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
        [
            note,
            f"{how} First comes the start token, then the text; the orange lines stand behind the "
            "end token, where the padding begins.",
        ],
        (layers, heads),
        border=read.tokens.index(END) + 1,
    )
    results.picture("tokens.png", figure)
    words = chosen(read.between_words())
    figure = panels(
        "Attention between words, in every layer and head",
        words,
        [
            note,
            "Each row is a word that looks, each column one that is looked at, in the order of the "
            "prompt; a word of several tokens counts as one. What a row lacks to 1 goes to the start token.",
        ],
        (layers, heads),
        read.labels(),
    )
    results.picture("words.png", figure)

    mean = chosen(read.between_words(special=True)).mean(dim=(0, 1))
    labels = read.labels(special=True)
    chart = Cell(matrix_chart(mean, labels, labels, float(mean.max())), enlarge=False)
    title = f"Who looks at whom: the mean over {len(layers)} layers and {len(heads)} heads"
    more = (
        "A word gets what its tokens get together, and gives what they give on average. No number: "
        "no token sees those behind it."
    )
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
    names: Sequence[str] = (),
    border: int | None = None,
) -> "Image.Image":
    """A matrix for each layer (down) and head (across), all on one scale. `names` stand beside the
    first one of a row and above those of the first row; lines stand before row and column `border`."""
    from PIL import ImageDraw

    from sd_scratch.mapping.charts import SIZE, matrix_chart, matrix_scale, name_width
    from sd_scratch.mapping.drawing import Cell, font, sheet

    layers, heads = axes
    side = values.shape[-1]
    cell = max(NAMED if names else 1, -(-PANEL // side))
    top = float(values.max())
    indent = name_width(names, font(SIZE))

    def panel(i: int, j: int) -> Cell:
        beside, above = () if j else names, () if i else names
        chart = matrix_chart(values[i, j], beside, above, top, cell=cell, numbers=False)
        if border is not None:
            at, end = border * cell, side * cell
            draw = ImageDraw.Draw(chart)
            draw.line((at, 0, at, end), BORDER)
            draw.line((0, at, end, at), BORDER)
        label = f"head {heads[j]}"
        return Cell(chart, label, enlarge=False, indent=0 if j else indent)

    rows = [[panel(i, j) for j in range(len(heads))] for i in range(len(layers))]
    labels = [f"layer {layer}" for layer in layers]
    foot = matrix_scale(top, "share of the attention that a row gives")
    return sheet(title, rows, notes=notes, row_labels=labels, foot=foot)
