"""The single-file layout of CompVis and A1111: one `.safetensors` file with all three networks.

    model.diffusion_model.*                       the U-Net
    first_stage_model.*                           the VAE
    cond_stage_model.transformer.text_model.*     the text encoder

There is no configuration in it, except in files that this package wrote: their header's metadata holds
what the files of a folder would.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from sd_scratch.checkpoints import config_json, infer
from sd_scratch.checkpoints.build import empty_network
from sd_scratch.checkpoints.family import check_family
from sd_scratch.checkpoints.key_rules import is_ignored, single_file_names, with_text_prefix
from sd_scratch.checkpoints.layout import Layout, Part, networks_of
from sd_scratch.checkpoints.safetensors_file import Header, StoredTensor, read_header
from sd_scratch.config import ModelConfig
from sd_scratch.json_file import Fields, parse_json

METADATA_KEY = "sd_scratch"


def read_single_file(path: Path, name: str = "") -> Layout:
    """Read a single file's header; `name` is what the model is called, by default as the file is.

    Raises ScratchError for a damaged file, and for any family but Stable Diffusion 1.x by its name.
    """
    header = read_header(path)
    check_family(path, header.tensors)
    tensors = {with_text_prefix(key): tensor for key, tensor in header.tensors.items()}
    config = _config(header, tensors, name or path.stem)

    parts: dict[str, Part] = {}
    used: set[str] = set()
    for part, network_config in networks_of(config).items():
        wanted = empty_network(network_config).state_dict()
        names = single_file_names((f"{part}.{key}" for key in wanted), config)
        found = {ours: theirs for ours, theirs in names.items() if theirs in tensors}
        used.update(found.values())
        parts[part] = Part(
            part,
            network_config,
            {ours.removeprefix(f"{part}."): tensors[theirs] for ours, theirs in found.items()},
        )
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
        "unet": config_json.unet_json(config.unet, config.sample_size // config.vae.downscale),
        "vae": config_json.autoencoder_json(config.vae, config.sample_size),
        "text_encoder": config_json.text_encoder_json(config.text),
        "scheduler": config_json.schedule_json(config.schedule, config.sampler),
        "settings": config_json.settings_json(config),
    }
    return {METADATA_KEY: json.dumps(parts)}


def _config(header: Header, tensors: Mapping[str, StoredTensor], name: str) -> ModelConfig:
    """From the header's metadata where this package wrote it, else from the tensors' shapes; both are
    read by the rules for a folder's files."""
    where = f"{header.path} (header)"
    stored = header.metadata.get(METADATA_KEY)
    if stored is not None:
        fields = Fields(parse_json(stored.encode(), where), where)
        parts = {key: fields.nested(key) for key in ("text_encoder", "vae", "unet", "settings")}
        scheduler = fields.nested("scheduler") if "scheduler" in fields.data else None
    else:
        shapes = infer.Shapes(header.path, tensors)
        parts = {
            "text_encoder": Fields(
                config_json.text_encoder_json(infer.text_encoder(shapes)), where
            ),
            "vae": Fields(config_json.autoencoder_json(infer.autoencoder(shapes), 512), where),
            "unet": Fields(config_json.unet_json(infer.unet(shapes), 64), where),
            "settings": Fields({}, where),
        }
        scheduler = None
    return config_json.model_config(
        name, parts["text_encoder"], parts["vae"], parts["unet"], scheduler, parts["settings"]
    )
