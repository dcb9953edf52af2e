"""``sd-scratch map heat``: which places of the picture look at which word."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sd_scratch.cli.map.options import add_prompt, add_run, integers, span, texts

if TYPE_CHECKING:
    from PIL import Image

    from sd_scratch.mapping.maps import Map

HELP = "which places look at which word in the U-Net's cross-attention"
COLUMNS = 8  # of the figure by calls


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
        type=span,
        default=slice(None),
        metavar="FROM:TO",
        help="of the U-Net, from 0, without TO; 0:10 are the first ten (default: all)",
    )
    add_run(parser)


def run(args: argparse.Namespace) -> None:
    from sd_scratch.cli.map.figures import save_maps
    from sd_scratch.cli.map.results import Results, numbered
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.drawing import picture
    from sd_scratch.mapping.heat import check_heads, choose_layers, record_heat

    session = Session(args)
    words = session.words(args.ask or args.prompt, args.word)
    layers = choose_layers(session.cross_attention_layers(), args.layers)
    check_heads(args.heads, session.layout.config.unet.num_attention_heads)
    results = Results(args.output, "heat", overwrite=args.overwrite)
    prompt = session.encode(args.prompt)
    asked = session.encode(args.ask) if args.ask else None
    with session.progress(1) as bar:
        pixels, heat = record_heat(session.rendering(bar.update), prompt, words, asked)

    maps = heat.maps(layers, args.heads, args.calls)
    below = picture(pixels)
    notes = [f"Prompt: {args.prompt}"]
    if args.ask:
        notes.append(f"Words of another prompt, which the picture was not made from: {args.ask}")
    notes.append(
        "Grey: the share of its attention that each place gives to the word, the mean over layers, "
        "heads and steps; all words on one scale. Colours: one a word, the more opaque the larger. "
        "What a place does not give to the words goes to the start token, the end token and the padding."
    )
    save_maps(results, "Which places look at which word", below, maps, notes)
    heads = args.heads or list(range(heat.heads))
    calls = range(heat.calls)[args.calls]
    some = [
        calls[i * len(calls) // min(len(calls), COLUMNS)] for i in range(min(len(calls), COLUMNS))
    ]
    parts = {
        "layer": {short(name): heat.maps([name], args.heads, args.calls) for name in layers},
        "head": {f"head {head}": heat.maps(layers, [head], args.calls) for head in heads},
        "call": {
            f"call {call}": heat.maps(layers, args.heads, slice(call, call + 1)) for call in some
        },
    }
    for name, columns in parts.items():
        results.picture(f"by-{name}.png", breakdown(name, columns, below, notes[:-1]))
    raw = {
        f"{short(layer)}.{word}": heat.shares[layer][..., i]
        for layer in layers
        for i, word in enumerate(numbered(heat.words))
    }
    results.tensors("shares.safetensors", raw)
    results.settings(
        session.recipe,
        words=list(heat.words),
        ask=args.ask,
        layers=layers,
        heads=list(heads),
        calls=[calls.start, calls.stop],
    )


def breakdown(
    name: str, columns: "dict[str, list[Map]]", below: "Image.Image", notes: Sequence[str]
) -> "Image.Image":
    """The picture, then words down; layers, heads or calls across; one scale for all of it."""
    from sd_scratch.mapping.drawing import SMALL, Cell, grey_map, scale_bar, sheet
    from sd_scratch.mapping.maps import largest, told_apart

    maps = list(columns.values())
    top = max(largest(column) for column in maps)
    rows = [
        [Cell(below)],
        *(
            [Cell(grey_map(column[i], top), label) for label, column in columns.items()]
            for i in range(len(maps[0]))
        ),
    ]
    title = f"Which places look at which word, by {name}"
    labels = ["the picture", *told_apart([map_.word for map_ in maps[0]])]
    more = {
        "layer": "Down, middle and up: the way through the U-Net. up 1.0 is the first attention of the "
        "second block up.",
        "head": "Every layer has as many heads; those of one number are averaged over the layers.",
        "call": "The U-Net is called once a step, first on noise, last on the nearly finished picture.",
    }
    foot = scale_bar(top, maps[0][0].units)
    all_notes = [*notes, f"Grey: the share of attention that a place gives to a word. {more[name]}"]
    return sheet(title, rows, notes=all_notes, row_labels=labels, foot=foot, side=SMALL)


def short(layer: str) -> str:
    """``unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2`` as ``up 1.0``."""
    parts = layer.split(".")
    if parts[1] == "mid_block":
        return "middle"
    return f"{parts[1].partition('_')[0]} {parts[2]}.{parts[4]}"
