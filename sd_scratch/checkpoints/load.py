"""From a source (a name, a folder, a file, a hub id) to networks that are ready to run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sd_scratch.checkpoints.build import check, check_memory, dtype_name, empty, fill, kept_type
from sd_scratch.checkpoints.folder import read_folder
from sd_scratch.checkpoints.hashes import cached_sha256
from sd_scratch.checkpoints.layout import Layout
from sd_scratch.checkpoints.memory import available_memory
from sd_scratch.checkpoints.open_clip import PADDING, is_open_clip
from sd_scratch.checkpoints.other_parts import with_text_encoder, with_vae
from sd_scratch.checkpoints.parts import parts_of
from sd_scratch.checkpoints.single_file import read_single_file
from sd_scratch.checkpoints.source import locate
from sd_scratch.config import ModelConfig
from sd_scratch.diffusion.prediction import PREDICTION_TYPES
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.errors import ScratchError, UsageError, log
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.networks.taesd import TinyAutoencoder
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.networks.unet import UNet
from sd_scratch.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Components:
    """The networks and the tokenizer of one text-to-image model, without gradients, ready to run.

    `source` is the given name, `summary` one line on what was loaded, dropped and ignored.
    """

    config: ModelConfig
    text: TextEncoder
    vae: Autoencoder | TinyAutoencoder
    unet: UNet
    tokenizer: Tokenizer
    source: str = ""
    summary: str = ""
    hashed_files: tuple[Path, ...] = ()
    others: Mapping[str, nn.Module] = field(default_factory=dict)  # further parts by their names
    force: bool = False  # no run is held against the memory that is free
    low_memory: bool = False  # large weights stay in the type that their file has

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network by the name of its part, in the order of the table."""
        return {
            name: self.others[name] if name in self.others else getattr(self, name)
            for name in parts_of(self.config)
        }

    @classmethod
    def of(
        cls, config: ModelConfig, networks: Mapping[str, Any], tokenizer: Tokenizer, **facts: Any
    ) -> "Components":
        """From the networks by the names of their parts; `facts` are this class's other fields."""
        own = {f.name for f in fields(cls)} & networks.keys()
        others = {name: network for name, network in networks.items() if name not in own}
        known = {name: networks[name] for name in own}
        return cls(config, tokenizer=tokenizer, others=others, **known, **facts)

    @cached_property
    def hash(self) -> str:
        """The first ten hex digits of the sha256 of the weights' bytes; empty for weights that came
        from no file.

        Of a single file that is the whole file, as A1111 counts it; of a folder the U-Net's file (or
        files, in order). Reading 4 GB takes seconds, so it happens on first use, and the result is kept
        in the user's cache until the file changes.
        """
        return cached_sha256(self.hashed_files)[:10] if self.hashed_files else ""


def load_components(
    source: str | Path = "scenes",
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    memory_format: torch.memory_format = torch.channels_last,
    offline: bool = False,
    force: bool = False,
    low_memory: bool | None = None,
    prediction: str | None = None,
    zero_snr: bool = False,
    vae: str | Path | None = None,
    text_encoder: str | Path | None = None,
    ema: bool = False,
) -> Components:
    """Load a text-to-image model.

    `source` is the name of a shipped model, ``sd15``, a diffusers folder, a ``.safetensors`` file in
    the single-file layout, or a hub id ``owner/name`` (then `revision` is a branch, tag or commit, and
    `offline` forbids the network). Names come before paths: write ``./scenes`` for a folder.

    Weights of any floating type are cast to `dtype`; convolution weights are stored in
    `memory_format`, by default the one in which convolutions are fastest. `force` skips the checks that the
    weights, and the runs of the model, fit into free memory. With `low_memory` large weights that the file
    has in half precision stay so, and each layer computes in `dtype`: the same picture, slower. None does so
    only if they would not fit otherwise.

    `vae` replaces the model's autoencoder: a file of any naming, also TAESD's, a folder, or a whole model.
    `text_encoder` is a whole model, or a CLIP's folder or hub id, whose text encoder and tokenizer are taken.
    `ema` takes the averaged copy of the U-Net's weights, which some single files have.

    `prediction` (``epsilon``, ``v_prediction`` or ``sample``) is what the network predicts, and with
    `zero_snr` its schedule ends in pure noise; both override the checkpoint.

    Raises ScratchError, in one line, for every fault of the source.
    """
    layout = read_layout(
        source, revision=revision, offline=offline, vae=vae, text_encoder=text_encoder, ema=ema
    )
    layout = with_schedule(layout, prediction, zero_snr)
    return build_components(
        layout, str(source), dtype, torch.device(device), memory_format, force, low_memory
    )


def read_layout(
    source: str | Path,
    *,
    revision: str | None = None,
    offline: bool = False,
    vae: str | Path | None = None,
    text_encoder: str | Path | None = None,
    ema: bool = False,
) -> Layout:
    """Find a checkpoint and read its headers and configurations, but no weights; see `load_components`."""
    place = locate(source, revision=revision, offline=offline)
    given = {"vae": vae, "text": text_encoder}
    may_lack = {part for part, other in given.items() if other is not None}
    if not place.path.is_dir():
        layout = read_single_file(place.path, place.name, may_lack=may_lack, ema=ema)
    elif ema:
        raise UsageError(
            f"{place.path} - a folder has its U-Net's weights once - EMA is for single files with both"
        )
    else:
        layout = read_folder(place.path, place.name, may_lack=may_lack)
    if text_encoder is not None:
        layout = with_text_encoder(layout, str(text_encoder), offline)
    return layout if vae is None else with_vae(layout, str(vae), offline)


def with_schedule(layout: Layout, prediction: str | None, zero_snr: bool = False) -> Layout:
    """The checkpoint with another prediction type, or with zero terminal SNR. Raises ScratchError if its own
    type is not supported, and none is given."""
    schedule = layout.config.schedule
    if prediction is None and layout.lacks:
        raise ScratchError(
            f"{layout.lacks[0]}, and what its network predicts is not known - name its prediction type"
        )
    if prediction is not None:
        if prediction not in PREDICTION_TYPES:
            known = ", ".join(PREDICTION_TYPES)
            raise UsageError(f"{prediction!r} is nothing that a network predicts - choose {known}")
        schedule = replace(schedule, prediction_type=prediction)
    if zero_snr:
        schedule = replace(schedule, rescale_betas_zero_snr=True)
    try:
        Schedule(schedule)
    except ScratchError as error:  # what no model can have
        raise type(error)(f"{layout.path} - {error}") from None
    return replace(layout, config=replace(layout.config, schedule=schedule))


def build_components(
    layout: Layout,
    source: str,
    dtype: torch.dtype,
    device: torch.device,
    memory_format: torch.memory_format = torch.channels_last,
    force: bool = False,
    low_memory: bool | None = None,
) -> Components:
    """Check every part of a checkpoint against its network, then fill them one after the other."""
    for warning in layout.warnings:
        log.warning(warning)
    networks = {
        name: empty(stored.part.network, stored.config) for name, stored in layout.parts.items()
    }
    unexpected = list(layout.unknown)
    for name, stored in layout.parts.items():
        keys = check(networks[name], stored.part.title, stored.tensors, layout.path)
        unexpected += [f"{name}.{key}" for key in keys]
    tokenizer = read_tokenizer(layout)
    if low_memory is None:
        low_memory = not force and needs_low_memory(layout, dtype, device)
    needed = weight_bytes(layout, dtype, low_memory)
    if not force:
        check_memory(layout.path, needed, dtype, device)
    if low_memory and needed == weight_bytes(layout, dtype):
        log.warning(
            f"{layout.path} - has no weights in less than {dtype_name(dtype)}, which would save memory - convert it"
        )
        low_memory = False
    for name, stored in layout.parts.items():
        fill(networks[name], stored.tensors, dtype, device, memory_format, low_memory)
    return Components.of(
        layout.config,
        networks,
        tokenizer,
        source=source,
        summary=summarise(layout, unexpected, dtype, low_memory),
        hashed_files=layout.hashed_files,
        force=force,
        low_memory=low_memory,
    )


def weight_bytes(layout: Layout, dtype: torch.dtype, low_memory: bool = False) -> int:
    """The memory of a checkpoint's weights."""
    tensors = (tensor for part in layout.parts.values() for tensor in part.tensors.values())
    return sum(tensor.numel * kept_type(tensor, dtype, low_memory).itemsize for tensor in tensors)


def needs_low_memory(
    layout: Layout, dtype: torch.dtype, device: torch.device, beside: int = 0
) -> bool:
    """Whether weights do not fit into free memory beside so many bytes, and are smaller in their file."""
    free, whole = available_memory(device), weight_bytes(layout, dtype)
    short = free is not None and whole + beside > free
    return short and weight_bytes(layout, dtype, low_memory=True) < whole


def empty_components(
    config: ModelConfig, dtype: torch.dtype = torch.float32, source: str = ""
) -> Components:
    """A model without weights: names and shapes on the `meta` device."""
    networks = {
        name: empty(part.network, config.networks[name]).to(dtype)
        for name, part in parts_of(config).items()
    }
    tokenizer = Tokenizer.clip(config.text.max_position_embeddings)
    if is_open_clip(config.text):
        tokenizer = tokenizer.changed(padding=PADDING)
    return Components.of(config, networks, tokenizer, source=source)


def read_tokenizer(layout: Layout) -> Tokenizer:
    """The checkpoint's own tokenizer if it has one, else CLIP's, at the text encoder's length."""
    text = layout.config.text
    if layout.tokenizer is not None:
        tokenizer = Tokenizer.from_folder(layout.tokenizer, text.max_position_embeddings)
    else:
        tokenizer = Tokenizer.clip(text.max_position_embeddings)
    if layout.padding is not None:
        tokenizer = tokenizer.changed(padding=layout.padding)
    if tokenizer.vocab_size > text.vocab_size:
        raise ScratchError(
            f"{layout.path} - its tokenizer needs {tokenizer.vocab_size:,} embeddings and its text"
            f" encoder has {text.vocab_size:,} - the tokenizer belongs to another model"
        )
    return tokenizer


def summarise(
    layout: Layout, unexpected: list[str], dtype: torch.dtype, low_memory: bool = False
) -> str:
    """One line: what was loaded, as what, and what was skipped."""
    stored = [tensor for part in layout.parts.values() for tensor in part.tensors.values()]
    dtypes = sorted({tensor.dtype.lower() for tensor in stored})
    line = (
        f"{layout.config.name}: {len(stored):,} tensors,"
        f" {sum(tensor.numel for tensor in stored) / 1e6:,.1f} M parameters"
        f" ({layout.kind}, {'+'.join(dtypes)} {'computed ' if low_memory else ''}as {dtype_name(dtype)})"
    )
    if layout.ignored:
        line += f"; {len(layout.ignored)} ignored, such as {layout.ignored[0]}"
    if unexpected:
        line += f"; {len(unexpected)} unexpected and not used, such as {unexpected[0]}"
    return "; ".join([line, *layout.notes])
