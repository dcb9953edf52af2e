"""T2I-Adapters from files, in the two namings of full ones for Stable Diffusion 1.x and 2.x.

adapter.body.1.resnets.0.block1.weight    diffusers'; without ``adapter.`` the names here
body.2.block1.weight                      the original's: the residual blocks of all levels in a row
"""

import re
from collections.abc import Mapping
from pathlib import Path

from sd_scratch.checkpoints.safetensors_file import StoredTensor
from sd_scratch.config import ModelConfig, T2IAdapterConfig
from sd_scratch.errors import ScratchError

PREFIX = "adapter."
BODY = re.compile(r"(?:adapter\.)?body\.(\d+)\.(.+)")
CHANNELS = (1, 3)  # of hints: grey ones, and colours


def is_t2i(stored: Mapping[str, StoredTensor]) -> bool:
    return any(BODY.fullmatch(key) for key in stored)


def t2i_tensors(
    file: Path, stored: Mapping[str, StoredTensor], model: ModelConfig
) -> tuple[T2IAdapterConfig, dict[str, StoredTensor]]:
    """The configuration that the shapes say, and the tensors by our names. Raises ScratchError for one that
    is not full, or is for another U-Net."""
    bare = {key.removeprefix(PREFIX): tensor for key, tensor in stored.items()}
    if any(".out_conv." in key for key in bare) or "conv_in.weight" not in bare:
        raise ScratchError(f"{file} - a light T2I-Adapter, and only full ones are supported")
    wanted, cell = model.unet.block_out_channels, model.vae.downscale
    levels, rows = len(wanted), max(map(_number, bare)) + 1
    if any(".resnets." in key for key in bare):
        inside = [int(m[1]) for key in bare if (m := re.search(r"\.resnets\.(\d+)\.", key))]
        layers = max(inside) + 1
    else:
        layers = max(rows // levels, 1)
        bare = {_ours(key, layers): tensor for key, tensor in bare.items()}
    channels = bare["conv_in.weight"].shape[1] / cell**2
    seen = [
        bare[key] for n in range(levels) if (key := f"body.{n}.resnets.0.block1.weight") in bare
    ]
    widths = tuple(tensor.shape[0] for tensor in seen)
    if widths != wanted or channels not in CHANNELS:
        raise ScratchError(
            f"{file} - a T2I-Adapter for another U-Net (its widths are {widths}, the model's"
            f" {wanted}), such as SDXL's"
        )
    return T2IAdapterConfig(int(channels), wanted, layers, cell), bare


def _number(key: str) -> int:
    found = BODY.fullmatch(key)
    return int(found[1]) if found else -1


def _ours(key: str, layers: int) -> str:
    """An original key by our name; the convolution before a level's first block is the level's own."""
    found = BODY.fullmatch(key)
    if not found:
        return key
    level, layer = divmod(int(found[1]), layers)
    inside = found[2] if found[2].startswith("in_conv.") else f"resnets.{layer}.{found[2]}"
    return f"body.{level}.{inside}"
