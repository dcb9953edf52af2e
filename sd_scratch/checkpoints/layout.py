"""The common form of every checkpoint layout: for each network, a configuration and the place of its tensors.
No weight has been read yet."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_scratch.checkpoints.parts import Part
from sd_scratch.checkpoints.safetensors_file import StoredTensor
from sd_scratch.config import ModelConfig


@dataclass(frozen=True)
class StoredPart:
    """One network of a checkpoint: `tensors` maps the network's own parameter names to the file."""

    part: Part
    config: Any
    tensors: Mapping[str, StoredTensor]

    @property
    def parameters(self) -> int:
        return sum(tensor.numel for tensor in self.tensors.values())


@dataclass(frozen=True)
class Layout:
    """A checkpoint whose headers have been read and whose weights have not."""

    kind: str  # "folder" or "single file"
    path: Path
    config: ModelConfig
    parts: Mapping[str, StoredPart]
    ignored: tuple[str, ...] = ()  # keys that are known and not used, such as EMA weights
    unknown: tuple[str, ...] = ()  # keys that belong to none of the networks
    notes: tuple[str, ...] = ()  # remarks for the summary line
    warnings: tuple[str, ...] = ()  # what the checkpoint says that is not followed
    lacks: tuple[str, ...] = ()  # what a run can only do when its prediction type is named
    tokenizer: Path | None = None  # a tokenizer's folder, where the checkpoint brings one
    padding: str | None = None  # the token that fills prompts up, where it is not the end token

    @property
    def hashed_files(self) -> tuple[Path, ...]:
        """The files whose bytes give the checkpoint's hash: the U-Net's, or the single file."""
        return tuple(dict.fromkeys(t.path for t in self.parts["unet"].tensors.values()))
