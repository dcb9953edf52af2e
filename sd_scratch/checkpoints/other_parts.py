"""Parts from elsewhere instead of a checkpoint's own: another VAE, another model's text encoder."""

from dataclasses import replace

from sd_scratch.checkpoints.folder import read_part_folder
from sd_scratch.checkpoints.layout import Layout, StoredPart
from sd_scratch.checkpoints.parts import PARTS
from sd_scratch.checkpoints.single_file import read_single_file
from sd_scratch.checkpoints.source import called, locate
from sd_scratch.checkpoints.vae_file import read_vae_file, read_vae_folder
from sd_scratch.config import ModelConfig
from sd_scratch.errors import ScratchError

VOCABULARIES = ("vocab.json", "tokenizer.json")


def with_vae(layout: Layout, source: str, offline: bool = False) -> Layout:
    """The checkpoint with the VAE of `source`: a file, a folder or a hub id of its own, or another model's.

    Raises ScratchError for one that makes latents of another kind.
    """
    path, own = locate(source, offline=offline, part=PARTS["vae"]).path, layout.config.vae
    if path.is_dir():
        stored = read_vae_folder(path / "vae" if (path / "vae").is_dir() else path, own)
    else:
        stored = read_vae_file(path, own)
    made = (stored.config.latent_channels, stored.config.downscale)
    if made != (own.latent_channels, own.downscale):
        raise ScratchError(
            f"{source} - its latents have {made[0]} channels and {made[1]} pixels a cell, the model's"
            f" {own.latent_channels} and {own.downscale} - the VAE of another family"
        )
    config = replace(layout.config, vae=stored.config)
    return _replaced(layout, config, stored, source)


def with_text_encoder(layout: Layout, source: str, offline: bool = False) -> Layout:
    """The checkpoint with the text encoder and the tokenizer of `source`: another model, or a folder or a hub
    id of a CLIP's own.

    Raises ScratchError for vectors of another width.
    """
    part = PARTS["text"]
    path = locate(source, offline=offline, part=part).path
    wanted = layout.config.unet.cross_attention_dim
    tokenizer = padding = None
    if path.is_dir():
        folder = path / part.folder if (path / part.folder).is_dir() else path
        stored = read_part_folder(folder, part)
        beside = folder.parent / "tokenizer" if folder.name == part.folder else folder
        tokenizer = beside if any((beside / name).is_file() for name in VOCABULARIES) else None
    else:
        other = read_single_file(path)
        stored, padding = other.parts["text"], other.padding
    if stored.config.hidden_size != wanted:
        raise ScratchError(
            f"{source} - its text encoder makes vectors of {stored.config.hidden_size} numbers, and the"
            f" U-Net reads {wanted} - the text encoder of another family"
        )
    config = replace(layout.config, text=stored.config)
    return _replaced(replace(layout, tokenizer=tokenizer, padding=padding), config, stored, source)


def _replaced(layout: Layout, config: ModelConfig, stored: StoredPart, source: str) -> Layout:
    parts = {**layout.parts, stored.part.name: stored}
    ordered = {name: parts[name] for name in config.networks if name in parts}
    note = f"{stored.part.title} of {called(source)}"
    return replace(layout, config=config, parts=ordered, notes=(*layout.notes, note))
