"""A file to a `Lora`: every key is used, or is named."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sd_scratch.checkpoints.adapters.changes import Change
from sd_scratch.checkpoints.adapters.embedding import Embedding, bundled_embeddings
from sd_scratch.checkpoints.adapters.few_steps import FewSteps, few_steps
from sd_scratch.checkpoints.adapters.names import module_names, split_key
from sd_scratch.checkpoints.adapters.tensor_file import TensorFile, json_metadata, read_tensor_file
from sd_scratch.checkpoints.family import said_kind
from sd_scratch.checkpoints.load import Components
from sd_scratch.errors import ScratchError, log
from sd_scratch.files import at_home

PARTS = {"unet": "U-Net", "text": "text encoder"}
FAMILY_OF_WIDTH = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}

# What a key gives away of adapters that belong to other models, or are of another kind.
FOREIGN = (
    (
        r"lora_te2_|text_encoder_2\.|text_encoders\.clip_g\.|.*[._]transformer_blocks[._][1-9]",
        "a LoRA for SDXL",
    ),
    (r"lora_transformer_|transformer\.", "a LoRA for a transformer such as Flux or SD 3"),
    (r"lora_prior_unet_|lora_unet_(double|single)_blocks", "a LoRA for Flux"),
)
UNSUPPORTED = (".oft_blocks", ".oft_diag", ".on_input", ".a1.weight", ".b1.weight", ".boft_blocks")


@dataclass(frozen=True)
class Lora:
    """A checked adapter file: what it changes, and the keys of it that nothing here knows."""

    name: str
    hash: str
    changes: tuple[Change, ...]
    unused: tuple[str, ...]
    keys: int
    embeddings: tuple[Embedding, ...] = ()  # words that came along
    few_steps: FewSteps | None = None  # what it was distilled for

    @property
    def summary(self) -> str:
        """One line on what was found."""
        counts = ", ".join(
            f"{sum(change.module.startswith(part) for change in self.changes)} of the {title}"
            for part, title in PARTS.items()
        )
        line = f"{self.name}: changes {len(self.changes)} modules ({counts})"
        if self.embeddings:
            line += "; words " + ", ".join(embedding.name for embedding in self.embeddings)
        if self.unused:
            line += f"; {len(self.unused)} of {self.keys} keys not used, such as {self.unused[0]}"
        return line


def read_lora(path: str | Path, components: Components) -> Lora:
    """Read and check a LoRA, LoCon, LoHa, LoKr, DoRA or difference for a model; nothing is changed.

    Keys that are not known are kept in `Lora.unused` and named in a warning. Raises ScratchError, in one
    line, for a file of another kind or another model, and for one whose tensors do not fit together.
    """
    path = at_home(path)
    file = read_tensor_file(path)
    networks = {"unet": components.unet, "text": components.text}
    known = module_names(networks, components.config)
    groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
    unused = []
    embeddings, bundled = bundled_embeddings(file, components)
    rest = {key: tensor for key, tensor in file.tensors.items() if key not in bundled}
    for key, tensor in _numbered_keys(rest).items():
        name, slot = split_key(key) or (key, "")
        if slot and name in known and slot not in groups[known[name]]:
            groups[known[name]][slot] = tensor
        else:
            unused.append(key)
    for module in [module for module, slots in groups.items() if slots.keys() <= {"alpha"}]:
        unused += [f"the alpha of {module}, of which there is nothing else"]
        del groups[module]
    _check_kind(path, groups, unused, [*file.tensors])
    changes = tuple(_change(path, module, slots, file) for module, slots in groups.items())
    for change in changes:
        _check_fits(path, change, networks)
    distilled = few_steps(path.stem, file.metadata)
    count = len(file.tensors)
    lora = Lora(path.stem, file.hash, changes, tuple(unused), count, embeddings, distilled)
    if unused:
        log.warning(
            f"{path}: {len(unused)} of {lora.keys} keys are not known and not used: "
            + ", ".join(unused[:3])
            + (", ..." if len(unused) > 3 else "")
        )
    return lora


def _numbered_keys(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """cloneofsimo's pickles are a list up, down, up, down of one network, which its first width tells."""
    if not all(key.isdecimal() for key in tensors):
        return tensors
    first = next(iter(tensors.values()))
    part = "text_encoder" if first.ndim == 2 and first.shape[0] == 768 else "unet"
    return {
        f"{part}:{int(key) // 2}:{('up', 'down')[int(key) % 2]}": tensor
        for key, tensor in tensors.items()
    }


def _check_kind(
    path: Path, groups: Mapping[str, object], unused: list[str], keys: list[str]
) -> None:
    other = said_kind(keys, "a LoRA")
    if not groups and other:
        raise ScratchError(f"{path} - {other}")
    for starts, kind in FOREIGN:
        if any(re.match(starts, key) for key in unused):
            raise ScratchError(f"{path} - this is {kind} - one for Stable Diffusion 1.x is needed")
    for key in unused:
        if any(mark in key for mark in UNSUPPORTED):
            raise ScratchError(
                f"{path} - {key} is of a kind (OFT, GLoRA, IA3) that is not supported - use a LoRA"
            )
    if not groups:
        raise ScratchError(
            f"{path} - no LoRA that is known here: none of its {len(unused)} tensors, such as"
            f" {unused[0]}, belongs to the model's U-Net or text encoder"
        )


def _change(path: Path, module: str, slots: dict[str, Tensor], file: TensorFile) -> Change:
    stored = slots.pop("alpha", None)
    alpha: float | None = None
    if stored is not None:
        if stored.numel() != 1:
            raise ScratchError(f"{path} - the alpha of {module} is no number - the file is damaged")
        alpha = float(stored)
    part = "unet" if module.startswith("unet") else "text_encoder"
    config = {
        key.removeprefix(f"{part}."): value
        for key, value in json_metadata(file.metadata, "lora_adapter_metadata").items()
        if key.startswith(f"{part}.")
    }
    if alpha is None:
        alpha = _peft_alpha(config, module.partition(".")[2])
    return Change(module, slots, alpha, config.get("use_rslora") is True)


def _peft_alpha(config: Mapping[str, Any], module: str) -> float | None:
    """The alpha that PEFT's configuration, in a file that diffusers saved, gives a module."""
    own = config.get("alpha_pattern")
    patterns = own if isinstance(own, dict) else {}
    matches = [value for name, value in patterns.items() if f".{module}".endswith(f".{name}")]
    value = matches[0] if matches else config.get("lora_alpha")
    return float(value) if isinstance(value, int | float) else None


def _check_fits(path: Path, change: Change, networks: Mapping[str, nn.Module]) -> None:
    """Compute the change once without numbers: what does not fit together shows in the shapes."""
    part, _, place = change.module.partition(".")
    module = networks[part].get_submodule(place)
    for key, tensor in change.slots.items():
        if not tensor.is_floating_point() or tensor.numel() == 0:
            raise ScratchError(f"{path} - {key} of {change.module} holds no numbers")
    empty = {key: tensor.to("meta") for key, tensor in change.slots.items()}
    bare = Change(change.module, empty, change.alpha, change.root_rank)
    try:
        weight = torch.empty_like(module.get_parameter("weight"), device="meta")
        bare.of_weight(weight)
        if "diff_b" in empty:
            bare.of_bias(torch.empty_like(module.get_parameter("bias"), device="meta"))
    except KeyError as error:
        raise ScratchError(
            f"{path} - {change.module} lacks its tensor {error} - the file is incomplete"
        ) from None
    except AttributeError:
        raise ScratchError(
            f"{path} - changes the bias of {change.module}, which has none"
        ) from None
    except (ValueError, RuntimeError) as error:
        raise ScratchError(_misfit(path, change, module, str(error).splitlines()[0])) from None


def _misfit(path: Path, change: Change, module: nn.Module, reason: str) -> str:
    """Name the family where the width of the text vectors tells it."""
    down = change.slots.get("down")
    is_context = change.module.endswith(("attn2.to_k", "attn2.to_v"))
    if down is not None and down.ndim > 1 and (is_context or change.module.startswith("text.")):
        theirs = FAMILY_OF_WIDTH.get(down.shape[1])
        ours = module.get_parameter("weight").shape[1]
        if theirs and down.shape[1] != ours:
            return (
                f"{path} - this is a LoRA for {theirs} - the model's text vectors are {ours} wide"
            )
    return f"{path} - {change.module}: {reason} - the file is for another model, or damaged"
