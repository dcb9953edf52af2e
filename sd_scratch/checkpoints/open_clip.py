"""OpenCLIP's names for a text encoder, as single files of Stable Diffusion 2.x have them, both ways.

    cond_stage_model.model.transformer.resblocks.{layer}.ln_1          layer_norm1, ln_2 layer_norm2
                                                        .attn.in_proj_weight   q_proj, k_proj and v_proj, one below the other
                                                        .attn.out_proj         self_attn.out_proj
                                                        .mlp.c_fc              mlp.fc1, c_proj fc2
    cond_stage_model.model.positional_embedding        without ".weight"

ViT-H/14 has 24 layers, of which Stable Diffusion 2.x uses 23, with the final norm behind them. Files that
were made of a diffusers folder have no more than those.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sd_scratch.checkpoints.key_rules import TEXT
from sd_scratch.checkpoints.safetensors_file import StoredTensor
from sd_scratch.config import TextEncoderConfig
from sd_scratch.errors import ScratchError

OPEN_CLIP = "cond_stage_model.model"
LAYERS_USED = 23
PADDING = "!"  # token 0

PARTS = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
ROOTS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
JOINED = ("q_proj", "k_proj", "v_proj")  # in the order of in_proj's rows
# Of the pair of encoders that CLIP is: the text's vectors are used before it.
UNUSED = re.compile(
    rf"{re.escape(OPEN_CLIP)}\.(text_projection|logit_scale|attn_mask)"
    rf"|{re.escape(TEXT)}\.encoder\.layers\.{LAYERS_USED}\..*"
)


def is_open_clip(config: TextEncoderConfig) -> bool:
    """Whether a text encoder is of OpenCLIP's kind: OpenAI's has an activation of its own."""
    return config.hidden_act == "gelu"


def usual_text(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """A single file's tensors, those of an OpenCLIP text encoder by transformers' names.

    Raises ScratchError for a joined projection that cannot be taken apart.
    """
    found: dict[str, StoredTensor] = {}
    for key, tensor in tensors.items():
        for name, part in _usual(key, tensor).items():
            found[name] = part
    return found


def _usual(key: str, tensor: StoredTensor) -> dict[str, StoredTensor]:
    match = re.fullmatch(rf"{re.escape(OPEN_CLIP)}\.(?:transformer\.resblocks\.(\d+)\.)?(.+)", key)
    if match is None:
        return {key: tensor}
    layer, rest = match.groups()
    if layer is None:
        names = {theirs: ours for ours, theirs in ROOTS.items()}
        return {f"{TEXT}.{names[rest]}" if rest in names else key: tensor}
    place = f"{TEXT}.encoder.layers.{layer}"
    if joined := re.fullmatch(r"attn\.in_proj(_weight|_bias|\.weight|\.bias)", rest):
        leaf = joined[1][1:]
        return {
            f"{place}.self_attn.{name}.{leaf}": part
            for name, part in zip(JOINED, _thirds(key, tensor), strict=True)
        }
    module, _, leaf = rest.rpartition(".")
    for ours, theirs in PARTS.items():
        if module == theirs:
            return {f"{place}.{ours}.{leaf}": tensor}
    return {key: tensor}


def _thirds(key: str, tensor: StoredTensor) -> list[StoredTensor]:
    rows = tensor.shape[0] if tensor.shape else 0
    if rows % 3 or not rows:
        raise ScratchError(
            f"{tensor.path} - {key} has {rows} rows, which are not three projections - the file is"
            " damaged or of another kind of model"
        )
    third = rows // 3
    return [tensor.rows(i * third, (i + 1) * third) for i in range(3)]


def open_clip_text(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse for a state of tensors: transformers' names to OpenCLIP's, projections joined."""
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if not key.startswith(TEXT + "."):
            found[key] = tensor
            continue
        rest = key.removeprefix(TEXT + ".")
        if rest in ROOTS:
            found[f"{OPEN_CLIP}.{ROOTS[rest]}"] = tensor
            continue
        layer, _, inside = rest.removeprefix("encoder.layers.").partition(".")
        place = f"{OPEN_CLIP}.transformer.resblocks.{layer}"
        module, _, leaf = inside.rpartition(".")
        if module in PARTS:
            found[f"{place}.{PARTS[module]}.{leaf}"] = tensor
        elif module == "self_attn.q_proj":
            parts = [state[key.replace("q_proj", name)] for name in JOINED]
            found[f"{place}.attn.in_proj_{leaf}"] = torch.cat(parts)
    return found


def as_open_clip(config: TextEncoderConfig) -> TextEncoderConfig:
    """An encoder read off a file's shapes, with the activation and the layers of 2.x."""
    layers = min(config.num_hidden_layers, LAYERS_USED)
    return replace(config, hidden_act="gelu", num_hidden_layers=layers)
