"""What the words of a prompt look at inside the text encoder.

Every token spreads one unit of attention over itself and the tokens before it, in every layer and
head. Between words: what a word gets is the sum over its tokens, what it gives the mean over them, so
that every word, too, gives one unit in all. A word's attention is what it gets from all words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sd_scratch.mapping.charts import SIZE, bar_chart, matrix_chart, matrix_scale, name_width
from sd_scratch.mapping.drawing import Cell, font, sheet
from sd_scratch.mapping.report import Report, Table
from sd_scratch.mapping.words import check_places, membership, name_of
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.stable_diffusion import StableDiffusion

PROBS = "text.encoder.layers.*.self_attn.probs"
START, END, PADDING = "<start>", "<end>", "<padding>"
PANEL = 96  # pixels that one layer and head gets at least
NAMED = 14  # pixels that a word gets where it is named
BORDER = (235, 130, 30)  # where the text ends and the padding begins


@dataclass(frozen=True, eq=False)
class TextAttention:
    """The text encoder's attention for one prompt.

    Attributes:
        prompt: what was read.
        probs: ``[layers, heads, tokens, tokens]``, from each (row) to each (column); rows sum to 1.
    """

    prompt: Prompt
    probs: Tensor = field(repr=False)

    @property
    def tokens(self) -> list[str]:
        """What stands at each of the text encoder's positions."""
        encoding = self.prompt.encoding
        texts = [PADDING] * len(encoding.ids)
        for start in self._starts:
            texts[start] = START
        for end in self._ends:
            texts[end] = END
        for token in encoding.tokens:
            texts[token.position] = token.text
        return texts

    @property
    def _starts(self) -> list[int]:
        return list(range(0, len(self.prompt.encoding.ids), self.prompt.encoding.length))

    @property
    def _ends(self) -> list[int]:
        """Behind the last token of every chunk."""
        encoding = self.prompt.encoding
        places = [token.position for token in encoding.tokens]
        return [
            1 + max((p for p in places if start < p < start + encoding.length), default=start)
            for start in self._starts
        ]

    def layers(self, chosen: Sequence[int] = ()) -> list[int]:
        """Those of the chosen layers that were read, all without any; clip skip leaves out the last."""
        return [i for i in range(len(self.probs)) if not chosen or i in chosen]

    def labels(self, special: bool = False) -> list[str]:
        """Names of the words, of which those that stand there more than once are numbered (``a:1``, ``a:2``)."""
        words = [name_of(self.prompt, word) for word in self.prompt.words]
        return [START, *words, END, PADDING] if special else words

    def between_words(self, special: bool = False) -> Tensor:
        """``[layers, heads, words, words]``, in the order of `labels`.

        Without `special`, the start and end tokens and the padding behind them neither give nor get;
        rows then sum to less than 1, mostly to much less, as most attention goes to the start.
        """
        positions = [list(word.positions) for word in self.prompt.words]
        if special:
            padding = [i for i, text in enumerate(self.tokens) if text == PADDING]
            positions = [self._starts, *positions, self._ends, padding]
        return combine(self.probs, positions)

    def received(self, special: bool = False) -> Tensor:
        """What each word gets from all words, itself among them: ``[layers, heads, words]``."""
        return self.between_words(special).sum(dim=-2)


def text_attention(model: StableDiffusion, text: str, *, clip_skip: int = 1) -> TextAttention:
    """Read a prompt, and note who looks at whom. Raises ScratchError as `StableDiffusion.prompt`."""
    with model.record(PROBS, branch="cond") as trace:
        prompt = model.prompt(text, clip_skip=clip_skip)
    layers = [trace[name].tensor.float().cpu() for name in trace.names]
    return TextAttention(prompt, torch.stack([_in_one(layer) for layer in layers]))


def _in_one(probs: Tensor) -> Tensor:
    """``[..., chunks, heads, N, N]`` as ``[heads, chunks N, chunks N]``: the text encoder reads a long
    prompt's chunks one by one, so that no token of one looks at another's."""
    chunks = probs.reshape(-1, *probs.shape[-3:]).transpose(0, 1)  # [heads, chunks, N, N]
    return torch.stack([torch.block_diag(*head) for head in chunks])  # type: ignore[no-untyped-call]


def combine(probs: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Attention between tokens ``[..., N, N]`` to attention between groups of them: the sum over what
    gets it, the mean over who gives it. An empty group gives and gets nothing."""
    member = membership(groups, probs.shape[-1])
    givers = member / member.sum(dim=0).clamp(min=1.0)
    return givers.T @ probs @ member


# Reports ------------------------------------------------------------------------------------


def attention_report(
    read: TextAttention, layers: Sequence[int] = (), heads: Sequence[int] = ()
) -> Report:
    """Who looks at whom: between all tokens and between words, in every layer and head and on average."""
    chosen = read.layers(layers)
    heads = check_places("head", heads, read.probs.shape[1])

    def select(values: Tensor) -> Tensor:
        return values[chosen][:, heads]

    note = f"Prompt: {read.prompt.text}"
    how = "Each row is one that looks, each column one that is looked at; a row sums to 1."
    tokens, words = select(read.probs), select(read.between_words())
    shares, labels = select(read.between_words(special=True)), read.labels(special=True)
    mean = shares.mean(dim=(0, 1))
    chart = Cell(matrix_chart(mean, labels, labels, float(mean.max())), enlarge=False)
    figures = {
        "tokens": _panels(
            "Attention between all tokens, in every layer and head",
            tokens,
            [
                note,
                f"{how} First comes the start token, then the text; the orange lines stand behind the "
                "end token, where the padding begins.",
            ],
            (chosen, heads),
            border=read.tokens.index(END) + 1,
        ),
        "words": _panels(
            "Attention between words, in every layer and head",
            words,
            [
                note,
                "Each row is a word that looks, each column one that is looked at, in the order of the "
                "prompt; a word of several tokens counts as one. What a row lacks to 1 goes to the "
                "start token.",
            ],
            (chosen, heads),
            read.labels(),
        ),
        "mean": sheet(
            f"Who looks at whom: the mean over {len(chosen)} layers and {len(heads)} heads",
            [[chart]],
            notes=[
                note,
                how,
                "A word gets what its tokens get together, and gives what they give on average. No "
                "number: no token sees those behind it.",
            ],
        ),
    }
    rows = [
        (layer, head, giver, receiver, float(shares[i, j, a, b]))
        for i, layer in enumerate(chosen)
        for j, head in enumerate(heads)
        for a, giver in enumerate(labels)
        for b, receiver in enumerate(labels)
    ]
    return Report(
        figures,
        tensors={"attention": {"tokens": tokens, "words": words}},
        tables={"attention": Table(("layer", "head", "from", "to", "share"), rows)},
        facts={"layers": chosen, "heads": heads, "tokens": read.tokens},
    )


def words_report(
    reads: Sequence[TextAttention],
    *,
    layers: Sequence[int] = (),
    heads: Sequence[int] = (),
    special: bool = False,
    by_layer: bool = False,
) -> Report:
    """How much attention each word gets, as bars, prompts side by side; `by_layer` adds a row a layer."""
    chosen = reads[0].layers(layers)
    heads = check_places("head", heads, reads[0].probs.shape[1])
    labels = [read.labels(special) for read in reads]
    received = [read.received(special)[chosen][:, heads].mean(dim=1) for read in reads]
    bars = [[rows.mean(dim=0), *(rows if by_layer else [])] for rows in received]
    top = max(float(row.max()) for rows in bars for row in rows)
    texts = [read.prompt.text for read in reads]
    rows = [
        [
            Cell(bar_chart(values.tolist(), names, top), text, enlarge=False)
            for values, names, text in zip(row, labels, texts, strict=True)
        ]
        for row in zip(*bars, strict=True)
    ]
    givers = "all words, the start and end tokens and the padding" if special else "all words"
    given = sum(float(row[0].sum()) for row in bars) / sum(map(len, labels))
    lost = "" if special else f", {1 - given:.0%} here to the start token, which is left out"
    which = "all layers" if not layers else f"layers {', '.join(map(str, chosen))}"
    every = len(heads) == reads[0].probs.shape[1]
    mean = "all heads" if every else f"heads {', '.join(map(str, heads))}"
    figure = sheet(
        "How much attention each word gets",
        rows,
        row_labels=[which, *(f"layer {chosen[i]}" for i in range(len(rows) - 1))],
        notes=[
            f"The sum of what a word gets from {givers}, itself included, in the text encoder; the "
            f"mean over {which} and {mean}. A word gives 1 in all{lost}. No word sees the ones behind "
            "it: the earlier a word stands, the more can look at it."
        ],
    )
    table = [
        (text, name, float(values.mean()), *values.tolist())
        for text, names, own in zip(texts, labels, received, strict=True)
        for name, values in zip(names, own.T, strict=True)
    ]
    header = ("prompt", "word", "mean", *(f"layer {i}" for i in chosen))
    facts = {"prompts": texts, "special": special, "by_layer": by_layer}
    facts |= {"layers": chosen, "heads": heads}
    return Report({"words": figure}, tables={"words": Table(header, table)}, facts=facts)


def _panels(
    title: str,
    values: Tensor,
    notes: Sequence[str],
    axes: tuple[Sequence[int], Sequence[int]],
    names: Sequence[str] = (),
    border: int | None = None,
) -> Image.Image:
    """A matrix for each layer (down) and head (across), all on one scale. `names` stand beside the
    first one of a row and above those of the first row; lines stand before row and column `border`."""
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
