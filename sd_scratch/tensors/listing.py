"""The list of tensors for people: a table, and a page with the meaning of each."""

import re
from collections.abc import Iterable, Mapping, Sequence

from sd_scratch.tensors.names import TensorInfo

# What a tensor is, by the end of its name; the first entry that fits is taken.
MEANINGS: tuple[tuple[str, str], ...] = (
    ("text.token_ids", "the prompt as numbers, padded"),
    ("text_model.token_ids", "the text as numbers, padded"),
    ("token_embedding", "each token's vector from the table"),
    ("position_embedding", "each place's vector from the table"),
    ("resid_in", "the layer's input"),
    ("resid_mid", "after adding attention"),
    ("vae.*.resid_out", "the input plus attention's output"),
    ("resid_out", "after adding feed-forward: the layer's output"),
    ("layer_norm?", "normalised, before attention (1) and feed-forward (2)"),
    ("self_attn.out", "attention's output, all heads together"),
    ("mlp.pre", "feed-forward, four times as wide, before the activation"),
    ("mlp.act", "after the activation"),
    ("mlp.out", "feed-forward's output"),
    ("final_layer_norm", "the last layer normalised: the text encoder's output"),
    ("text.pooled", "the vector at the end token, CLIP's summary of the text"),
    ("text_model.pooled", "the vector at the end token"),
    ("vision_model.pictures", "the pictures, colours normalised as CLIP was trained"),
    ("patch_embedding", "each patch of pixels as a vector"),
    ("place_embedding", "the class token, then the patches, row by row"),
    ("pre_layrnorm", "normalised, before the first layer"),
    ("vision_model.pooled", "the class token's vector, normalised: CLIP's summary of the picture"),
    ("clip.image_vector", "the picture's vector in CLIP's common space, of length 1"),
    ("clip.text_vector", "the text's vector there"),
    ("text.context", "the text as the U-Net reads it"),
    ("q", "queries"),
    ("k", "keys"),
    ("v", "values"),
    ("scores", "queries times keys, over the root of their width"),
    ("probs", "softmax of the scores: each query's attention sums to 1"),
    ("result", "each head's part of the output"),
    ("vae.z", "the raw latent that is decoded"),
    ("z", "values, mixed by attention, for each head"),
    ("unet.x", "the noisy latent, the U-Net's input"),
    ("unet.t", "the timestep"),
    ("unet.context", "the text as the U-Net reads it at this step"),
    ("time_proj", "the timestep as sinusoids"),
    ("time_embedding", "the timestep as every residual block sees it"),
    ("conv_in", "the first convolution's output"),
    ("unet.h", "the middle block's output: the h-space"),
    ("norm_out", "normalised, before the last convolution"),
    ("unet.pred", "the U-Net's prediction: noise, v or the clean latent, as the model was trained"),
    ("*.concat.?", "the features from below, joined with the skip"),
    ("resnets.?.in", "the residual block's input"),
    ("resnets.?.norm?", "normalised, before a convolution"),
    ("resnets.?.conv?", "the convolution's output"),
    ("resnets.?.time", "the timestep's addition to every place"),
    ("resnets.?.skip", "the input, with the output's channels"),
    ("resnets.?.out", "skip plus convolutions"),
    ("samplers.0.out", "the feature map, halved or doubled"),
    ("attentions.?.in", "the input feature map"),
    ("attentions.?.norm", "the same, normalised"),
    ("proj_in", "projected, before the places become a row"),
    ("proj_out", "folded back and projected"),
    ("vae.*.attentions.?.out", "attention's output, projected"),
    ("attentions.?.out", "the input plus the transformer's output"),
    ("resid0", "all places in a row"),
    ("resid1", "plus self-attention"),
    ("resid2", "plus cross-attention"),
    ("resid3", "plus feed-forward"),
    (
        "transformer_blocks.?.norm?",
        "normalised, before attn1 (1), attn2 (2), feed-forward (3)",
    ),
    ("attn1.out", "self-attention's output, all heads together"),
    ("attn2.out", "cross-attention's output, all heads together"),
    ("ff.value", "feed-forward: one half"),
    ("ff.gate", "feed-forward: the half that decides what passes"),
    ("ff.act", "value times GELU(gate)"),
    ("ff.out", "feed-forward's output"),
    ("guidance.pred_uncond", "the prediction without the prompt, or with the negative one"),
    ("guidance.pred_pictured", "InstructPix2Pix's prediction with only the picture"),
    ("guidance.pred_cond", "the prediction with the prompt"),
    (
        "guidance.pred_perturbed",
        "the prediction with the prompt and perturbed self-attention, for `--pag`",
    ),
    ("guidance.delta", "their difference, the effect of the prompt"),
    ("guidance.pred", "the guided prediction"),
    ("sampler.noise", "the start of the run"),
    ("sampler.step_noise", "fresh noise, for samplers that add some"),
    ("sampler.t", "the timestep"),
    ("sampler.sigma", "noise relative to signal"),
    ("sampler.alpha_bar", "signal's share of the variance"),
    ("sampler.x_t", "the sample before the step"),
    ("sampler.x0", "the clean latent of the guided prediction"),
    ("sampler.eps", "the noise of the guided prediction"),
    ("sampler.velocity", "the velocity v of the guided prediction"),
    ("sampler.x_next", "the sample after the step"),
    ("encoder.conv_out", "the encoder's output"),
    ("vae.moments", "mean and log-variance together"),
    ("vae.mean", "the posterior's mean: the latent of a picture"),
    ("vae.logvar", "the posterior's log-variance"),
    ("post_quant_conv", "the latent as the decoder reads it"),
    ("vae.image", "the picture, -1..1"),
)

HEADER = """\
| name | what it is | axes | size | bytes |
|---|---|---|---|---:|
"""

INTRODUCTION = """\
# Every tensor by name

The names of all tensors of a run, as [Seeing inside](course/10-seeing-inside.md) records and edits them.

- A **name** is the path of a module, exactly as in the checkpoint, plus the tensor's role there. `{0..3}` stands for
  a number. In a glob, `*` stands for anything, dots included: `unet.*.attn2.probs` is every cross-attention.
- The **address** of one value is `name@call:branch`, such as `unet.h@12:cond`. Calls of the U-Net count from 0.
  A branch is `cond` (with the prompt), `uncond` (without) or, with `--pag`, `perturbed`.
- **Axes** are named; the first, `batch`, is left out. Sizes are those of a row's first tensor. Bytes are of one
  picture, one branch and one step, for all tensors of the row together.
- ° marks tensors that can be recorded but not edited, because nothing is computed from them.

`sd-scratch tensors --markdown -m sd15` makes this page, for a picture of 512x512.
"""


def meaning(info: TensorInfo) -> str:
    """One phrase on what a tensor is. Raises KeyError for a tensor without a description."""
    for ending, text in MEANINGS:
        pattern = re.escape(ending).replace(r"\*", ".*").replace(r"\?", r"\d")
        if re.search(rf"(^|\.|down|up){pattern}$", info.name):
            return text
    raise KeyError(info.name)


def table(infos: Iterable[TensorInfo]) -> str:
    """One line a tensor: name, shape with its axes, type, bytes."""
    rows = [
        (
            info.name,
            " ".join(f"{axis}={n}" for axis, n in zip(info.axes, info.shape, strict=True)),
            _type(info),
            f"{info.bytes:,}",
        )
        for info in infos
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "".join(
        f"{name:{widths[0]}}  {shape:{widths[1]}}  {kind:{widths[2]}}  {size:>{widths[3]}}\n"
        for name, shape, kind, size in rows
    )


def page(infos: Sequence[TensorInfo], titles: Mapping[str, str]) -> str:
    """The same in Markdown, under the titles of the networks; names that differ only in numbers share a line."""
    parts: dict[str, dict[str, list[TensorInfo]]] = {}
    for info in infos:
        rows = parts.setdefault(info.root, {})
        rows.setdefault(re.sub(r"\.\d+", ".#", info.name), []).append(info)
    text = INTRODUCTION
    for root, rows in parts.items():
        text += f"\n## {titles.get(root, root.capitalize())}\n\n{HEADER}"
        text += "".join(_row(group) for group in rows.values())
    return text


def _row(group: Sequence[TensorInfo]) -> str:
    first = group[0]
    size = "x".join(map(str, first.shape[1:])) or "1"
    name = _common_name([info.name for info in group])
    mark = "" if first.editable else " °"
    axes = " ".join(first.axes[1:])
    total = sum(info.bytes for info in group)
    return f"| `{name}`{mark} | {meaning(first)} | {axes} | {size} | {total:,} |\n"


def _common_name(names: Sequence[str]) -> str:
    """``a.0.b.0`` and ``a.1.b.0`` to ``a.{0,1}.b.0``."""
    parts = []
    for places in zip(*(name.split(".") for name in names), strict=True):
        numbers = sorted({int(place) for place in places if place.isdecimal()})
        if len(numbers) < 2:
            parts.append(places[0])
        elif numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 2:
            parts.append(f"{{{numbers[0]}..{numbers[-1]}}}")
        else:
            parts.append(f"{{{','.join(map(str, numbers))}}}")
    return ".".join(parts)


def _type(info: TensorInfo) -> str:
    return str(info.dtype).removeprefix("torch.")
