"""The single-file layout of CompVis and A1111: one `.safetensors` file with all three networks.

    model.diffusion_model.*                       the U-Net
    first_stage_model.*                           the VAE
    cond_stage_model.transformer.text_model.*     the text encoder

There is no configuration in it, except in files that this package wrote: their header's metadata holds
what the files of a folder would.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sd_scratch.checkpoints.build import empty
from sd_scratch.checkpoints.family import check_family
from sd_scratch.checkpoints.infer import Shapes
from sd_scratch.checkpoints.key_rules import is_ignored, single_file_names, with_text_prefix
from sd_scratch.checkpoints.layout import Layout, StoredPart
from sd_scratch.checkpoints.model_json import model_config, model_json, settings_json
from sd_scratch.checkpoints.parts import PARTS, parts_of
from sd_scratch.checkpoints.safetensors_file import Header, StoredTensor, read_header
from sd_scratch.checkpoints.scheduler_json import schedule_json
from sd_scratch.config import ModelConfig
from sd_scratch.json_file import Fields, parse_json

METADATA_KEY = "sd_scratch"
LATENT_SIZE = 64  # cells along one side, where a file does not say


def read_single_file(path: Path, name: str = "") -> Layout:
    """Read a single file's header; `name` is what the model is called, by default as the file is.

    Raises ScratchError for a damaged file, and for any family but Stable Diffusion 1.x by its name.
    """
    header = read_header(path)
    check_family(path, header.tensors)
    tensors = {with_text_prefix(key): tensor for key, tensor in header.tensors.items()}
    config = _config(header, tensors, name or path.stem)

    parts: dict[str, StoredPart] = {}
    used: set[str] = set()
    for part_name, part in parts_of(config).items():
        part_config = config.networks[part_name]
        wanted = empty(part.network, part_config).state_dict()
        names = single_file_names((f"{part_name}.{key}" for key in wanted), config)
        found = {ours: theirs for ours, theirs in names.items() if theirs in tensors}
        used.update(found.values())
        stored = {
            ours.removeprefix(f"{part_name}."): tensors[theirs] for ours, theirs in found.items()
        }
        parts[part_name] = StoredPart(part, part_config, stored)
    rest = [key for key in tensors if key not in used]
    return Layout(
        kind="single file",
        path=path,
        config=config,
        parts=parts,
        ignored=tuple(key for key in rest if is_ignored(key)),
        unknown=tuple(key for key in rest if not is_ignored(key)),
        notes=(header.note,) if header.note else (),
    )


def config_metadata(config: ModelConfig) -> dict[str, str]:
    """A model's configuration for the header of a single file, as `read_single_file` reads it back."""
    parts = {
        **model_json(config),
        "scheduler": schedule_json(config.schedule, config.sampler),
        "settings": settings_json(config),
    }
    return {METADATA_KEY: json.dumps(parts)}


def _config(header: Header, tensors: Mapping[str, StoredTensor], name: str) -> ModelConfig:
    """From the header's metadata where this package wrote it, else from the tensors' shapes; both are
    read by the rules for a folder's files."""
    where = f"{header.path} (header)"
    text = header.metadata.get(METADATA_KEY)
    if text is None:
        inferred = _inferred(Shapes(header.path, tensors))
        parts = {part: Fields(data, where) for part, data in inferred.items()}
        return model_config(name, parts, None, Fields({}, where))
    fields = Fields(parse_json(text.encode(), where), where)
    parts = {
        part.name: fields.nested(part.folder)
        for part in PARTS.values()
        if part.needed or part.folder in fields.data
    }
    scheduler = fields.nested("scheduler") if "scheduler" in fields.data else None
    return model_config(name, parts, scheduler, fields.nested("settings"))


def _inferred(shapes: Shapes) -> dict[str, dict[str, Any]]:
    """The parts' configurations as JSON, read off the shapes, with the sizes of Stable Diffusion 1.x."""
    configs = {name: part.infer(shapes) for name, part in PARTS.items() if part.infer}
    config = ModelConfig.of(configs)
    config = replace(config, sample_size=LATENT_SIZE * config.vae.downscale)
    return {name: part.write(config) for name, part in parts_of(config).items()}
