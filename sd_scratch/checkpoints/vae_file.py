"""An autoencoder from a file of its own, in every naming that such files come in.

first_stage_model.decoder.up.0...    inside a single-file checkpoint
decoder.up.0...                      CompVis' names alone
decoder.up_blocks.0...               diffusers' names
decoder.layers.3...                  TAESD in diffusers' names
3.conv.0...                          TAESD's own files, one for the encoder and one for the decoder
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sd_scratch.checkpoints import infer
from sd_scratch.checkpoints.build import empty
from sd_scratch.checkpoints.family import said_kind
from sd_scratch.checkpoints.folder import our_name, read_part_folder, weights_of
from sd_scratch.checkpoints.infer import Shapes
from sd_scratch.checkpoints.key_rules import VAE, single_file_names
from sd_scratch.checkpoints.layout import StoredPart
from sd_scratch.checkpoints.parts import PARTS, tiny
from sd_scratch.checkpoints.pickle_file import read_weights
from sd_scratch.checkpoints.safetensors_file import StoredTensor
from sd_scratch.checkpoints.single_file import usual_tensors
from sd_scratch.config import AutoencoderConfig, ModelConfig, TinyAutoencoderConfig
from sd_scratch.errors import ScratchError
from sd_scratch.json_file import read_json

Tensors = Mapping[str, StoredTensor]

PART = PARTS["vae"]
TINY_OWN = re.compile(r"(\d+)\.((?:conv\.\d+\.)?(?:weight|bias))")


def read_vae_folder(path: Path, own: AutoencoderConfig) -> StoredPart:
    """A folder with an autoencoder's ``config.json`` and weights; `own` is the model's own configuration."""
    config = path / "config.json"
    if config.is_file() and read_json(config).get("_class_name") == "AutoencoderTiny":
        return _tiny(path, weights_of(path.parent, replace(PART, folder=path.name))[0], own)
    return read_part_folder(path, PART)


def read_vae_file(path: Path, own: AutoencoderConfig) -> StoredPart:
    """The autoencoder in a file; its scale and its norms' groups are those of `own`, as files say nothing
    about them.

    Raises ScratchError for a file without one.
    """
    tensors: Tensors = usual_tensors(read_weights(path))
    if any(key.startswith(f"{VAE}.") for key in tensors):
        prefix = f"{VAE}."
        tensors = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    if all(TINY_OWN.fullmatch(key) for key in tensors):
        return _tiny_own(path, tensors, own)
    if any(key.startswith("decoder.layers.") for key in tensors):
        return _tiny(path, tensors, own)
    if any(key.startswith("decoder.up_blocks.") for key in tensors):
        named = {our_name(PART, key): tensor for key, tensor in tensors.items()}
        found = infer.autoencoder(Shapes(path, named), "", "down_blocks.{}.resnets.{}")
        return StoredPart(PART, _as_own(path, found, own), named)
    if any(key.startswith("decoder.up.") for key in tensors):
        return _compvis(path, {f"{VAE}.{key}": t for key, t in tensors.items()}, own)
    if kind := said_kind(tensors, "a VAE"):
        raise ScratchError(f"{path} - {kind}")
    raise ScratchError(
        f"{path} - no autoencoder is in it (tensors such as {', '.join(list(tensors)[:3])}) - give a VAE's"
        " file or folder, or a whole model"
    )


def _as_own(path: Path, found: AutoencoderConfig, own: AutoencoderConfig) -> AutoencoderConfig:
    """The sizes that the shapes say, with what they do not say from the model's own autoencoder."""
    groups = own.norm_num_groups
    if any(width % groups for width in found.block_out_channels):
        raise ScratchError(
            f"{path} - its widths {found.block_out_channels} do not fall into {groups} groups, as the"
            " model's own do - the VAE of another family"
        )
    return replace(found, scaling_factor=own.scaling_factor, norm_num_groups=groups)


def _compvis(path: Path, tensors: Tensors, own: AutoencoderConfig) -> StoredPart:
    config = _as_own(path, infer.autoencoder(Shapes(path, tensors)), own)
    wanted = empty(PART.network, config).state_dict()
    names = single_file_names((f"vae.{key}" for key in wanted), ModelConfig(vae=config))
    found = {
        ours.removeprefix("vae."): tensors[theirs]
        for ours, theirs in names.items()
        if theirs in tensors
    }
    return StoredPart(PART, config, found)


def _tiny(path: Path, tensors: Tensors, own: AutoencoderConfig) -> StoredPart:
    """TAESD in diffusers' names, which are ours."""
    shapes = Shapes(path, tensors)
    widths = (shapes.size("decoder.layers.0.weight", 0),) * len(own.block_out_channels)
    config = TinyAutoencoderConfig(
        latent_channels=shapes.size("decoder.layers.0.weight", 1),
        block_out_channels=widths,
        encodes=any(key.startswith("encoder.") for key in tensors),
    )
    return StoredPart(tiny(PART), config, tensors)


def _tiny_own(path: Path, tensors: Tensors, own: AutoencoderConfig) -> StoredPart:
    """TAESD's own file of a decoder, in which what leads the latents softly into range is number 0."""
    if "0.weight" in tensors:
        raise ScratchError(
            f"{path} - TAESD's encoder, which makes no pictures - give the decoder's file, or a folder with"
            " both"
        )
    named = {}
    for key, tensor in tensors.items():
        number, _, rest = key.partition(".")
        named[f"decoder.layers.{int(number) - 1}.{rest}"] = tensor
    return _tiny(path, named, own)
