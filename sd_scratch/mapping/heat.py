"""Heat maps: which places of the picture look at which word, in the U-Net's cross-attention.

Every place of a feature map spreads one unit of attention over the prompt's tokens. A word's map is
the share that its tokens get, per step, layer and head, or the mean over some of them (Tang et al.
2023, arXiv:2210.04885, sum where this takes means, so that values stay shares, 0..1).

The places' queries do not know which words will be asked for. So words of another prompt have maps
too: its own keys meet the same queries (Marcos-Manchon et al. 2024, arXiv:2403.14291).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sd_scratch.errors import UsageError
from sd_scratch.mapping.drawing import SMALL, Cell, dark, grey_map, picture, scale_bar, sheet
from sd_scratch.mapping.maps import Map, largest
from sd_scratch.mapping.maps_report import maps_report
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.mapping.report import Report, numbered
from sd_scratch.mapping.words import check_places, membership, name_of
from sd_scratch.networks.attention import Attention, attention_scores
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.text.encoding import Word

QUERIES = "unet.*.attn2.q"
UNITS = "share of attention"
COLUMNS = 8  # of the figure by calls
AXES = {
    "layer": "Down, middle and up: the way through the U-Net. up 1.0 is the first attention of the "
    "second block up.",
    "head": "Every layer has as many heads; those of one number are averaged over the layers.",
    "call": "The U-Net is called once a step, first on noise, last on the nearly finished picture.",
}


@dataclass(frozen=True, eq=False)
class Heat:
    """What a run attended to, word by word.

    Attributes:
        shares: by layer, ``[calls, heads, h, w, words]``, 0..1; h and w are the layer's own.
        words: what stands on the last axis.
        size: width and height of the picture in pixels.
    """

    shares: dict[str, Tensor] = field(repr=False)
    words: tuple[str, ...]
    size: tuple[int, int]

    @property
    def calls(self) -> int:
        """How often the U-Net was called."""
        return min(share.shape[0] for share in self.shares.values())

    @property
    def heads(self) -> int:
        return min(share.shape[1] for share in self.shares.values())

    def maps(
        self, layers: Sequence[str] = (), heads: Sequence[int] = (), calls: slice = slice(None)
    ) -> list[Map]:
        """One map a word, the mean over layers, heads and calls (all by default).

        Layers of different sizes meet at the largest one's, smoothly enlarged. Raises ScratchError
        (bad usage) for a layer, head or call that is not there.
        """
        names = choose_layers(list(self.shares), layers)
        check_places("head", heads, self.heads)
        if not range(self.calls)[calls]:
            raise UsageError(f"no call of the U-Net is meant, of its {self.calls}")
        parts = [self.shares[name][calls] for name in names]
        parts = [(part[:, list(heads)] if heads else part).mean(dim=(0, 1)) for part in parts]
        size = max((part.shape[:2] for part in parts), key=lambda hw: hw[0] * hw[1])
        whole = torch.stack([_enlarged(part, (size[0], size[1])) for part in parts]).mean(dim=0)
        method = f"cross-attention, layers {len(names)}, heads {len(heads) or self.heads}"
        return [
            Map(whole[..., i].contiguous(), self.size, word, method, UNITS)
            for i, word in enumerate(self.words)
        ]


def record_heat(
    rendering: Rendering, prompt: Prompt, words: Sequence[Word], asked: Prompt | None = None
) -> tuple[Tensor, Heat]:
    """Make the picture, and note at every call of the U-Net what attends to which word.

    `words` are those of `asked`, a prompt of its own that the picture is not made from, or of `prompt`.
    Returns the picture ``[3, H, W]`` uint8, not a bit of which depends on the recording, and the heat.
    Raises ScratchError with guidance 0, where no place looks at the prompt.
    """
    model = rendering.model
    names = list(model.taps.tensors(QUERIES))
    context = (asked or prompt).context
    with ExitStack() as stack:
        traces = {}
        for name in names:
            layer = name.removesuffix(".q")
            attention = model.unet.get_submodule(layer.removeprefix("unet."))
            assert isinstance(attention, Attention)
            reduce = _word_shares(attention, context, words)
            recorder = model.record(name, branch="cond", reduce=reduce)
            traces[layer] = stack.enter_context(recorder)
        (pixels,) = rendering.afresh().pixels([prompt])
    shares = {}
    for layer, trace in traces.items():
        recording = trace[f"{layer}.q"]
        calls, _, heads, _, count = recording.tensor.shape  # [calls, 1, heads, places, words]
        h, w = recording.hw or (1, 1)
        shares[layer] = recording.tensor.reshape(calls, heads, h, w, count).float().cpu()
    return pixels, Heat(
        shares, tuple(name_of(asked or prompt, word) for word in words), rendering.size
    )


def choose_layers(names: Sequence[str], globs: Sequence[str]) -> list[str]:
    """Those of the layers that some globs match, all without any.

    Raises ScratchError (bad usage) for a glob without a match.
    """
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            raise UsageError(f"no layer is named '{glob}' - there is {', '.join(names)}")
    return [n for n in names if not globs or any(fnmatchcase(n, glob) for glob in globs)]


def _word_shares(
    attention: Attention, context: Tensor, words: Sequence[Word]
) -> Callable[[Tensor], Tensor]:
    """From a layer's queries ``[B, heads, places, d]`` to the words' shares ``[B, heads, places, words]``."""
    weight = attention.to_k.weight
    keys = attention.split_heads(attention.to_k(context.to(weight.device, weight.dtype)))
    tokens = membership([word.positions for word in words], context.shape[1]).to(weight)

    def shares(queries: Tensor) -> Tensor:
        return attention_scores(queries, keys).softmax(dim=-1) @ tokens

    return shares


def _enlarged(part: Tensor, size: tuple[int, int]) -> Tensor:
    """``[h, w, words]`` to another height and width, without overshooting."""
    rows = part.permute(2, 0, 1)[None]
    return F.interpolate(rows, size=size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)


# The report ---------------------------------------------------------------------------------


def heat_report(
    rendering: Rendering,
    prompt: Prompt,
    words: Sequence[Word],
    asked: Prompt | None = None,
    *,
    layers: Sequence[str] = (),
    heads: Sequence[int] = (),
    calls: slice = slice(None),
) -> Report:
    """`record_heat` as figures, over all and by layer, head and call, and as raw shares.

    `layers` are globs. Raises ScratchError as `Heat.maps` does.
    """
    pixels, heat = record_heat(rendering, prompt, words, asked)
    names, chosen = choose_layers(list(heat.shares), layers), list(heads) or list(range(heat.heads))
    notes = [f"Prompt: {prompt.text}"]
    if asked is not None:
        notes.append(f"Words of another prompt, which the picture was not made from: {asked.text}")
    how = (
        "Grey: the share of its attention that each place gives to the word, the mean over layers, "
        "heads and steps; all words on one scale. Colours: one a word, the more opaque the larger. "
        "What a place does not give to the words goes to the start token, the end token and the padding."
    )
    maps = heat.maps(names, heads, calls)
    title = "Which places look at which word"
    report = maps_report("heat", title, pixels, maps, [*notes, how])
    some = range(heat.calls)[calls]
    shown = min(len(some), COLUMNS)
    few = [some[i * len(some) // shown] for i in range(shown)]
    parts = {
        "layer": {short(name): heat.maps([name], heads, calls) for name in names},
        "head": {f"head {head}": heat.maps(names, [head], calls) for head in chosen},
        "call": {f"call {call}": heat.maps(names, heads, slice(call, call + 1)) for call in few},
    }
    for name, columns in parts.items():
        report.figures[f"by-{name}"] = _breakdown(name, columns, picture(pixels), notes)
    report.tensors["shares"] = {
        f"{short(layer)}.{word}": heat.shares[layer][..., i]
        for layer in names
        for i, word in enumerate(numbered(heat.words))
    }
    ask = None if asked is None else asked.text
    ends = [some.start, some.stop]
    report.facts.update({"ask": ask, "layers": names, "heads": chosen, "calls": ends})
    return report


def _breakdown(
    name: str, columns: dict[str, list[Map]], below: Image.Image, notes: Sequence[str]
) -> Image.Image:
    """The picture, then words down; layers, heads or calls across; one scale for all of it."""
    maps = list(columns.values())
    top = max(largest(column) for column in maps)
    words = range(len(maps[0]))
    rows = [
        [Cell(below)],
        *(
            [Cell(grey_map(column[i], top), label) for label, column in columns.items()]
            for i in words
        ),
    ]
    brightest = [max((c[i] for c in maps), key=lambda m: float(m.tensor.max())) for i in words]
    how = f"Grey: the share of attention that a place gives to a word. {AXES[name]}"
    return sheet(
        f"Which places look at which word, by {name}",
        rows,
        notes=[*notes, how, *dark(brightest, top)],
        row_labels=["the picture", *(map_.word for map_ in maps[0])],
        foot=scale_bar(top, maps[0][0].units),
        side=SMALL,
    )


def short(layer: str) -> str:
    """``unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2`` as ``up 1.0``."""
    parts = layer.split(".")
    if parts[1] == "mid_block":
        return "middle"
    return f"{parts[1].partition('_')[0]} {parts[2]}.{parts[4]}"
