"""What kind of model a single file is, from its tensors' names and shapes and never from its name."""

import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from sd_scratch.checkpoints.key_rules import TEXT, UNET, VAE, usual_name
from sd_scratch.checkpoints.safetensors_file import StoredTensor
from sd_scratch.config import ModelConfig
from sd_scratch.errors import ScratchError

SD1, SD1_INPAINTING = "Stable Diffusion 1.x", "Stable Diffusion 1.x inpainting"
SD2, SD2_INPAINTING = "Stable Diffusion 2.x", "Stable Diffusion 2.x inpainting"
INSTRUCT, SD2_INSTRUCT = "InstructPix2Pix", "InstructPix2Pix on Stable Diffusion 2.x"
SUPPORTED = (SD1, SD1_INPAINTING, INSTRUCT, SD2, SD2_INPAINTING, SD2_INSTRUCT)
# By the channels of the U-Net's first convolution.
OF_1 = {4: SD1, 9: SD1_INPAINTING, 8: INSTRUCT}
OF_2 = {
    4: SD2,
    9: SD2_INPAINTING,
    8: SD2_INSTRUCT,
    5: "Stable Diffusion 2.x with depth, whose U-Net reads a map of it (5 input channels)",
    7: "the upscaler of Stable Diffusion 2.x (7 input channels)",
}
SD2_CONTEXT = 1024  # the width of the text's vectors, by which 2.x is told from 1.x

ONLY = "only Stable Diffusion 1.x and 2.x are supported, from text, for inpainting and as InstructPix2Pix"

CONV_IN = f"{UNET}.input_blocks.0.0.weight"

# What the name of any one tensor gives away; the first that fits decides.
MARKS = (
    (r"conditioner\..*", "Stable Diffusion XL"),
    (r"(.*\.)?(double_blocks|single_blocks)\.\d+\..*", "Flux"),
    (r"(.*\.)?joint_blocks\.\d+\..*", "Stable Diffusion 3"),
    (
        rf"{re.escape(UNET)}\.label_emb\..*",
        "a U-Net with labels, as of Stable Diffusion 2.1 unCLIP",
    ),
    (r"lora_.*|.*[._]lora[._](A|B|up|down)\b.*|.*\.hada_w1_.*|(unet|text_encoder):.*", "a LoRA"),
    (r"control_model\..*|controlnet_.*|(.*\.)?input_hint_block\..*", "a ControlNet"),
    (r"(adapter\.)?body\.\d+\.(block1|resnets|in_conv|body)\..*", "a T2I-Adapter"),
    (r"emb_params|string_to_param.*|clip_[lg]|<.*>", "a textual inversion embedding"),
)

# For a file that is one network and no whole checkpoint.
PARTIAL = (
    (rf"{re.escape(VAE)}\..*|(encoder|decoder)\.(conv_in|mid|mid_block)\..*", "a VAE alone"),
    (rf"{re.escape(TEXT)}\..*|text_model\..*|embeddings\.token_embedding\..*", "a text encoder alone"),
    (rf"{re.escape(UNET)}\..*|(down_blocks|input_blocks)\.\d+\..*", "a U-Net alone"),
)  # fmt: skip


def family(tensors: Mapping[str, StoredTensor], may_lack: Container[str] = ()) -> str:
    """The family's name, such as "Stable Diffusion 1.x", or "" when nothing is recognised. `may_lack`
    names parts that need not be there."""
    marked = _first_mark(MARKS, tensors)
    if marked:
        return marked
    missing = [title for name, title in _missing(tensors).items() if name not in may_lack]
    if len(missing) > 1:
        return _first_mark(PARTIAL, tensors)
    if missing:
        return f"a Stable Diffusion checkpoint without its {missing[0]}"
    context = unet_context(tensors)
    if context == 2048:
        return "Stable Diffusion XL"
    shape = tensors[CONV_IN].shape if CONV_IN in tensors else ()
    by_inputs = OF_2 if context == SD2_CONTEXT else OF_1
    return by_inputs.get(shape[1], "") if len(shape) == 4 else by_inputs[4]


def said_kind(keys: Iterable[str], wanted: str) -> str:
    """For messages: what a file is that is not `wanted`, "" where its names do not tell."""
    keys = list(keys)
    whole = all(any(key.startswith(f"{part}.") for key in keys) for part in (UNET, VAE, TEXT))
    kind = "a whole model" if whole else _first_mark((*MARKS, *PARTIAL), keys)
    return "" if kind in ("", wanted) else f"this is {kind}, and not {wanted}"


def family_of(config: ModelConfig) -> str:
    """The family of a model that can be loaded."""
    by_inputs = OF_2 if config.unet.cross_attention_dim == SD2_CONTEXT else OF_1
    return by_inputs.get(config.unet.in_channels, by_inputs[4])


def _missing(tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """The parts of which the file has not a tensor, and what to call each."""
    prefixes = {"unet": ("U-Net", UNET), "vae": ("VAE", VAE), "text": ("text encoder", TEXT)}
    return {
        name: f"{title} ({prefix}.*)"
        for name, (title, prefix) in prefixes.items()
        if not any(usual_name(key).startswith(f"{prefix}.") for key in tensors)
    }


def unet_context(tensors: Mapping[str, StoredTensor]) -> int | None:
    """The width of the text vectors that a single file's U-Net attends to."""
    for key, tensor in tensors.items():
        if key.startswith(UNET) and key.endswith(".attn2.to_k.weight") and len(tensor.shape) == 2:
            return tensor.shape[1]
    return None


def check_family(
    path: Path, tensors: Mapping[str, StoredTensor], may_lack: Container[str] = ()
) -> str:
    """The family, if it can be loaded; else a ScratchError that names what the file is."""
    name = family(tensors, may_lack)
    if name in SUPPORTED:
        return name
    if not name:
        raise ScratchError(
            f"{path} - not a Stable Diffusion checkpoint that is known here (tensors such as"
            f" {', '.join(list(tensors)[:3])}) - a whole 1.x or 2.x model is needed"
        )
    whole = "a whole Stable Diffusion 1.x or 2.x model is needed"
    if "without its VAE" in name or "without its text encoder" in name:
        whole = "name another model to take that from"
    raise ScratchError(f"{path} - this is {name} - {whole if name.startswith('a ') else ONLY}")


def _first_mark(marks: Iterable[tuple[str, str]], keys: Iterable[str]) -> str:
    keys = list(keys)
    for pattern, name in marks:
        if any(re.fullmatch(pattern, key) for key in keys):
            return name
    return ""
