"""ControlNets from files, in the namings that they come in.

down_blocks.*, controlnet_down_blocks.*    diffusers', in a folder or a file; the names here
control_model.input_blocks.*               the original's, alone or with the whole base model
input_blocks.*, zero_convs.*               the same, bare
"difference" beside one of the last two    the base U-Net's weights are to be added

A T2I-Adapter (`t2i.py`) goes the same way: it is told by its names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sd_scratch.checkpoints import keys
from sd_scratch.checkpoints.adapters.t2i import is_t2i, t2i_tensors
from sd_scratch.checkpoints.adapters.tensor_file import HASH_DIGITS, read_tensor_file
from sd_scratch.checkpoints.build import check, empty, fill, weights
from sd_scratch.checkpoints.config_json import heads_json
from sd_scratch.checkpoints.family import said_kind
from sd_scratch.checkpoints.folder_files import FIRST
from sd_scratch.checkpoints.hashes import cached_sha256
from sd_scratch.checkpoints.key_rules import UNET, single_file_names
from sd_scratch.checkpoints.load import Components
from sd_scratch.checkpoints.pickle_file import HeldTensor
from sd_scratch.checkpoints.safetensors_file import StoredTensor, read_header
from sd_scratch.checkpoints.sniff import PICKLE, sniff_file
from sd_scratch.config import ControlNetConfig, ModelConfig, UNetConfig
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.files import at_home
from sd_scratch.json_file import Fields, read_json
from sd_scratch.networks.controlnet import ControlNet
from sd_scratch.networks.t2i_adapter import T2IAdapter

TITLE, T2I_TITLE = "ControlNet", "T2I-Adapter"
ORIGINAL = "control_model."
DIFFERENCE = "difference"
BASE = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "model_ema.")
OWN = ("controlnet_", "down_blocks.", "mid_block.", "conv_in.", "time_embedding.")
CONTEXT = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
HINT = "controlnet_cond_embedding"
FAMILY_OF_WIDTH = {1024: "Stable Diffusion 2.x", 2048: "SDXL"}


@dataclass(frozen=True)
class LoadedControl:
    """A ControlNet or T2I-Adapter that is ready to run; `summary` says what was loaded and what was left aside."""

    name: str
    network: ControlNet | T2IAdapter
    hash: str
    summary: str


def read_control(
    path: str | Path, base: Components, global_pool: bool | None = None
) -> LoadedControl:
    """Load a ControlNet, or a full T2I-Adapter, for a model, in the model's precision and on its device.

    `path` is a `.safetensors` file, a pickle of tensors, or a diffusers folder. `global_pool` is for
    networks that were trained on the mean over all positions ("shuffle"); a folder says so itself.
    Raises ScratchError, in one line, for what is no ControlNet or is for another model.
    """
    path = at_home(path)
    file = _weights_file(path) if path.is_dir() else path
    stored = _stored_tensors(file)
    network: ControlNet | T2IAdapter
    left: list[str] = []
    if is_t2i(stored):
        title = T2I_TITLE
        if global_pool:
            raise UsageError(f"{file} - a {title}, which has no pooling of all positions")
        shapes, tensors = t2i_tensors(file, stored, base.config)
        network = empty(T2IAdapter, shapes)
    else:
        title = TITLE
        pooled = _read_config(path / "config.json", base.config.unet) if path.is_dir() else False
        config, tensors, left = _renamed(file, stored, base.config)
        config = replace(config, global_pool=pooled if global_pool is None else global_pool)
        _check_context(file, tensors, config)
        network = empty(ControlNet, config)
    left += check(network, title, tensors, file)
    if DIFFERENCE in stored:
        tensors = _with_base(tensors, base)
    weight = base.unet.conv_in.weight
    last = weight.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.contiguous_format
    wanted = {key: tensors[key] for key in weights(network)}
    fill(network, wanted, weight.dtype, weight.device, order, low_memory=base.low_memory)
    summary = f"{path.stem}: {title} of {len(weights(network))} tensors"
    if left:
        summary += f"; {len(left)} not used, such as {left[0]}"
    return LoadedControl(path.stem, network, cached_sha256([file])[:HASH_DIGITS], summary)


def _weights_file(folder: Path) -> Path:
    for ending in ("safetensors", "bin"):
        for variant in FIRST:
            middle = f".{variant}" if variant else ""
            file = folder / f"diffusion_pytorch_model{middle}.{ending}"
            if file.is_file():
                return file
    raise ScratchError(f"{folder} - holds no diffusion_pytorch_model.safetensors")


def _read_config(file: Path, unet: UNetConfig) -> bool:
    """Check a folder's config.json against the model's U-Net; returns whether residuals are pooled."""
    fields = Fields(read_json(file), str(file))
    for key, allowed in keys.UNET.refused.items():
        fields.only(key, *allowed)
    fields.only("attention_head_dim", heads_json(unet))
    fields.only("use_linear_projection", unet.use_linear_projection)
    fields.only("norm_num_groups", unet.norm_num_groups)
    fields.only("controlnet_conditioning_channel_order", "rgb")
    return fields.flag("global_pool_conditions", False)


def _stored_tensors(file: Path) -> Mapping[str, StoredTensor]:
    if sniff_file(file) != PICKLE:
        return read_header(file).tensors
    tensors = read_tensor_file(file).tensors
    wrapped = all(key.startswith("state_dict.") for key in tensors)
    cut = len("state_dict.") if wrapped else 0
    return {key[cut:]: HeldTensor.of(file, key, value) for key, value in tensors.items()}


def _renamed(
    file: Path, stored: Mapping[str, StoredTensor], model: ModelConfig
) -> tuple[ControlNetConfig, dict[str, StoredTensor], list[str]]:
    """The configuration, the tensors by our names, and the keys that are of no ControlNet."""
    rest = {key: value for key, value in stored.items() if key != DIFFERENCE}
    bare = {
        key.removeprefix(ORIGINAL): value for key, value in rest.items() if not key.startswith(BASE)
    }
    if any(key.startswith("lora_controlnet") for key in stored):
        raise ScratchError(f"{file} - a control LoRA, which is not supported - use a ControlNet")
    unet = replace(model.unet, in_channels=model.vae.latent_channels)
    left = [key for key in rest if key.startswith(BASE)]
    if any(key.startswith("zero_convs.") for key in bare):
        names = original_names(unet, model, _hint_blocks(bare, "input_hint_block.{}.weight", 2))
        tensors = {ours: bare.pop(theirs) for ours, theirs in names.items() if theirs in bare}
        left += bare
    else:
        tensors = {key: value for key, value in bare.items() if key.startswith(OWN)}
        left += [key for key in bare if key not in tensors]
    widths = [_width(tensors.get(f"{HINT}.conv_in.weight"))]
    blocks = _hint_blocks(tensors, f"{HINT}.blocks.{{}}.weight", 1)
    widths += [_width(tensors.get(f"{HINT}.blocks.{i}.weight")) for i in range(1, blocks, 2)]
    if not all(widths) or "controlnet_mid_block.weight" not in tensors:
        if kind := said_kind(stored, "a ControlNet"):
            raise ScratchError(f"{file} - {kind}")
        raise ScratchError(
            f"{file} - this is no ControlNet (tensors such as {next(iter(stored))}) - it has no hint"
            " encoder, or no zero convolutions"
        )
    return ControlNetConfig(unet, conditioning_widths=tuple(widths)), tensors, left


def original_names(unet: UNetConfig, model: ModelConfig, blocks: int) -> dict[str, str]:
    """Our names of all tensors to the original's, without its prefix; `blocks` is how many convolutions
    lie between the first and the last of the hint's."""
    widths = (8,) * (blocks // 2 + 1)
    network = empty(ControlNet, ControlNetConfig(unet, conditioning_widths=widths))
    names = {}
    ours = list(weights(network))
    shared = [f"unet.{key}" for key in ours if not key.startswith("controlnet_")]
    for key, theirs in single_file_names(shared, replace(model, unet=unet)).items():
        names[key.removeprefix("unet.")] = theirs.removeprefix(f"{UNET}.")
    for key in ours:
        place, _, leaf = key.rpartition(".")
        match place.split("."):
            case ["controlnet_cond_embedding", "conv_in"]:
                names[key] = f"input_hint_block.0.{leaf}"
            case ["controlnet_cond_embedding", "blocks", n]:
                names[key] = f"input_hint_block.{2 * int(n) + 2}.{leaf}"
            case ["controlnet_cond_embedding", "conv_out"]:
                names[key] = f"input_hint_block.{2 * blocks + 2}.{leaf}"
            case ["controlnet_down_blocks", n]:
                names[key] = f"zero_convs.{n}.0.{leaf}"
            case ["controlnet_mid_block"]:
                names[key] = f"middle_block_out.0.{leaf}"
    return names


def _hint_blocks(keys: Iterable[str], template: str, step: int) -> int:
    """How many convolutions the hint's encoder has between its first and its last."""
    present = set(keys)
    count = 0
    while template.format(count * step) in present and count < 64:
        count += 1
    return count if step == 1 else max(count - 2, 0)


def _width(stored: StoredTensor | None) -> int:
    return stored.shape[0] if stored is not None and stored.shape else 0


def _check_context(
    file: Path, tensors: Mapping[str, StoredTensor], config: ControlNetConfig
) -> None:
    shape = tensors[CONTEXT].shape if CONTEXT in tensors else ()
    theirs, ours = shape[1] if len(shape) == 2 else 0, config.unet.cross_attention_dim
    if theirs != ours and theirs in FAMILY_OF_WIDTH:
        raise ScratchError(
            f"{file} - this is a ControlNet for {FAMILY_OF_WIDTH[theirs]} - the model's text vectors are"
            f" {ours} wide"
        )


def _with_base(tensors: Mapping[str, StoredTensor], base: Components) -> dict[str, StoredTensor]:
    """The base U-Net's weights added, where it has some of that name and shape."""
    own = base.unet.state_dict()
    whole = {}
    for key, stored in tensors.items():
        whole[key] = stored
        if key in own and not key.startswith("controlnet_"):
            added = stored.read().float().reshape(own[key].shape) + own[key].float().cpu()
            whole[key] = HeldTensor.of(stored.path, stored.key, added)
    return whole
