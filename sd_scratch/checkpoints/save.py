"""Networks to files: the diffusers folder and the single-file layout, in any floating type.

Files are written tensor by tensor, so that memory never holds a second copy of the weights, and each
appears whole or not at all.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sd_scratch.checkpoints.key_rules import is_vae_attention, single_file_names
from sd_scratch.checkpoints.load import Components
from sd_scratch.checkpoints.model_json import scheduler_json, settings_json
from sd_scratch.checkpoints.open_clip import PADDING, is_open_clip, open_clip_text
from sd_scratch.checkpoints.parts import parts_of
from sd_scratch.checkpoints.safetensors_writer import write_tensors
from sd_scratch.checkpoints.single_file import config_metadata
from sd_scratch.errors import ScratchError, UsageError, log
from sd_scratch.files import filled_folder, write_file
from sd_scratch.text.tokenizer import Tokenizer
from sd_scratch.text.vocabulary import END

SHARD_BYTES = 5 * 10**9  # larger networks are cut, as by diffusers

# What programs that load a folder with diffusers look for, beside its networks.
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}


def save_folder(
    components: Components,
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    *,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """Write a diffusers folder that this package, diffusers and transformers read.

    Weights are stored as `dtype`; a network of more than `shard_bytes` is cut into several files with
    an index. The whole model is written or nothing; other files in the folder, such as a README, stay.
    Raises ScratchError when a model is there already and `overwrite` is false, and for whatever keeps a
    file from being written.
    """
    folder, config = Path(folder), components.config
    if (folder / "model_index.json").exists() and not overwrite:
        raise UsageError(f"{folder} - holds a model already - choose another folder")
    # What another model has left there would be read in place of the new files.
    weights = [f"{part.folder}/{part.stem}*.safetensors*" for part in parts_of(config).values()]
    with filled_folder(folder, [*weights, "tokenizer/*.json"]) as made:
        for name, part in parts_of(config).items():
            state = {part.prefix + k: v for k, v in components.networks[name].state_dict().items()}
            _write_shards(made / part.folder, part.stem, state, dtype, shard_bytes)
        save_configuration(components, made)
    _warn_of_words(phrase for phrase, ids in components.tokenizer.added.items() if len(ids) > 1)


def save_configuration(components: Components, folder: Path) -> None:
    """All of a diffusers folder but the weights.

    Raises ScratchError for what keeps a file from being written.
    """
    config = components.config
    parts, scheduler = parts_of(config).values(), scheduler_json(config)
    for part in parts:
        _write_json(folder / part.folder / "config.json", part.write(config))
    components.tokenizer.save(folder / "tokenizer")
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = {
        **MODEL_INDEX,
        **{part.folder: list(part.reader) for part in parts},
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "sd_scratch": settings_json(config),
    }
    _write_json(folder / "model_index.json", index)


def save_single_file(
    components: Components,
    file: str | Path,
    dtype: torch.dtype = torch.float32,
    *,
    overwrite: bool = False,
) -> None:
    """Write one `.safetensors` file in the layout of CompVis and A1111, stored as `dtype`.

    Its header's metadata holds the configuration, for which the layout itself has no place. Raises
    ScratchError when the file exists and `overwrite` is false, or cannot be written, and for a model
    with a vocabulary or a padding of its own: only a folder holds them.
    """
    open_clip, tokenizer = is_open_clip(components.config.text), components.tokenizer
    usual = PADDING if open_clip else END
    if tokenizer.vocab != Tokenizer.clip().vocab or tokenizer.padding != usual:
        raise ScratchError(
            f"{file} - a single file has no place for the model's own vocabulary - save a folder"
        )
    _warn_of_words(tokenizer.added)
    ours = {
        f"{part}.{key}": tensor
        for part, network in components.networks.items()
        for key, tensor in network.state_dict().items()
    }
    names = single_file_names(ours, components.config)
    state = {
        names[key]: tensor[:, :, None, None] if is_vae_attention(key) else tensor
        for key, tensor in ours.items()
    }
    if open_clip:
        state = open_clip_text(state)
    write_tensors(Path(file), state, dtype, config_metadata(components.config), overwrite=overwrite)


def _warn_of_words(words: Iterable[str]) -> None:
    """Say which words lose their names: a tokenizer's files have one vector a word, a single file none."""
    if lost := ", ".join(map(repr, words)):
        log.warning(
            f"the saved model keeps the vectors of {lost} and not their names, for which there is no place there -"
            " load their embedding again beside the saved model"
        )


def _write_shards(
    folder: Path, stem: str, state: Mapping[str, Tensor], dtype: torch.dtype, limit: int
) -> None:
    """Write one file, or several of at most `limit` bytes and an index."""
    shards = _cut(state, dtype, limit)
    if len(shards) == 1:
        return write_tensors(folder / f"{stem}.safetensors", state, dtype, {}, overwrite=True)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        write_tensors(folder / name, shard, dtype, {}, overwrite=True)
        weight_map |= dict.fromkeys(shard, name)
    size = sum(tensor.numel() for tensor in state.values()) * dtype.itemsize
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    _write_json(folder / f"{stem}.safetensors.index.json", index)


def _cut(state: Mapping[str, Tensor], dtype: torch.dtype, limit: int) -> list[dict[str, Tensor]]:
    """The tensors in order, in groups of at most `limit` bytes (one larger tensor is a group)."""
    shards: list[dict[str, Tensor]] = [{}]
    room = limit
    for key, tensor in state.items():
        size = tensor.numel() * dtype.itemsize
        if size > room and shards[-1]:
            shards.append({})
            room = limit
        shards[-1][key] = tensor
        room -= size
    return shards


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    write_file(path, json.dumps(data, indent=2).encode() + b"\n", overwrite=True)
