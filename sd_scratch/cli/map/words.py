"""``sd-scratch map words``: how much attention each word of a prompt gets in the text encoder."""

import argparse

from sd_scratch.cli.map.options import add_model

HELP = "how much attention each word gets in the text encoder, for one prompt or several"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", nargs="+", help="one, or several to compare")
    parser.add_argument(
        "--special", action="store_true", help="count the start and end tokens and the padding, too"
    )
    parser.add_argument(
        "--by-layer", action="store_true", help="also one row of bars for every layer"
    )
    add_model(parser)


def run(args: argparse.Namespace) -> None:
    from sd_scratch.cli.map.results import Results
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.charts import bar_chart
    from sd_scratch.mapping.drawing import Cell, sheet
    from sd_scratch.mapping.text_attention import text_attention

    session = Session(args)
    for text in args.prompt:
        session.words(text, [])
    results = Results(args.output, "words", overwrite=args.overwrite)
    skip = session.recipe.clip_skip or 1
    reads = [text_attention(session.model, text, clip_skip=skip) for text in args.prompt]
    labels = [read.labels(args.special) for read in reads]
    # [rows, words] for each prompt: the mean over layers and heads, then every layer's over heads
    by_layer = [read.received(args.special).mean(dim=1) for read in reads]
    bars = [[layers.mean(dim=0), *(layers if args.by_layer else [])] for layers in by_layer]
    top = max(float(row.max()) for rows in bars for row in rows)

    rows = [
        [
            Cell(bar_chart(values.tolist(), names, top), text, enlarge=False)
            for values, names, text in zip(row, labels, args.prompt, strict=True)
        ]
        for row in zip(*bars, strict=True)
    ]
    givers = "all words, the start and end tokens and the padding" if args.special else "all words"
    given = sum(float(row[0].sum()) for row in bars) / sum(map(len, labels))
    lost = "" if args.special else f", {1 - given:.0%} here to the start token, which is left out"
    figure = sheet(
        "How much attention each word gets",
        rows,
        row_labels=["all layers", *(f"layer {i}" for i in range(len(rows) - 1))],
        notes=[
            f"The sum of what a word gets from {givers}, itself included, in the text encoder; the "
            f"mean over all heads and layers. A word gives 1 in all{lost}. No word sees the ones behind "
            "it: the earlier a word stands, the more can look at it.",
        ],
    )
    results.picture("words.png", figure)
    results.table(
        "words.csv",
        ("prompt", "word", "mean", *(f"layer {i}" for i in range(by_layer[0].shape[0]))),
        [
            (text, name, float(values.mean()), *values.tolist())
            for text, names, layers in zip(args.prompt, labels, by_layer, strict=True)
            for name, values in zip(names, layers.T, strict=True)
        ],
    )
    results.settings(session.text_recipe, prompts=args.prompt, special=args.special)
