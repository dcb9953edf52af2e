"""What kind of model a single file is, from its tensors' names and shapes and never from its name."""

import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from sd_scratch.checkpoints.key_rules import TEXT, UNET, VAE, usual_name
from sd_scratch.checkpoints.safetensors_file import StoredTensor
from sd_scratch.errors import ScratchError

SD1, SD1_INPAINTING = "Stable Diffusion 1.x", "Stable Diffusion 1.x inpainting"
INSTRUCT = "InstructPix2Pix"
SUPPORTED = (SD1, SD1_INPAINTING, INSTRUCT)
SUPPORTED_INPUTS = {
    4: SD1,
    9: SD1_INPAINTING,
    8: INSTRUCT,
}  # channels of the U-Net's first convolution

CONV_IN = f"{UNET}.input_blocks.0.0.weight"

# What the name of any one tensor gives away; the first that fits decides.
MARKS = (
    (r"conditioner\..*", "Stable Diffusion XL"),
    (r"(.*\.)?(double_blocks|single_blocks)\.\d+\..*", "Flux"),
    (r"(.*\.)?joint_blocks\.\d+\..*", "Stable Diffusion 3"),
    (r"cond_stage_model\.model\..*", "Stable Diffusion 2.x"),
    (r"lora_.*|.*[._]lora[._](A|B|up|down)\b.*|.*\.hada_w1_.*|(unet|text_encoder):.*", "a LoRA"),
    (r"control_model\..*|controlnet_.*|(.*\.)?input_hint_block\..*", "a ControlNet"),
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
    if context in (1024, 2048):
        return {1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}[context]
    shape = tensors[CONV_IN].shape if CONV_IN in tensors else ()
    return SUPPORTED_INPUTS.get(shape[1], "") if len(shape) == 4 else SD1


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
            f" {', '.join(list(tensors)[:3])}) - a whole 1.x model is needed"
        )
    whole = "a whole Stable Diffusion 1.x model is needed" if name.startswith("a ") else (
        "only Stable Diffusion 1.x is supported"
    )  # fmt: skip
    raise ScratchError(f"{path} - this is {name} - {whole}")


def _first_mark(marks: Iterable[tuple[str, str]], keys: Iterable[str]) -> str:
    keys = list(keys)
    for pattern, name in marks:
        if any(re.fullmatch(pattern, key) for key in keys):
            return name
    return ""
