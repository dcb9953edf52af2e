"""What other programs call the modules of our networks in adapter files.

Three families of names: a path (diffusers', or the single file's) with a prefix, kohya's with
underscores for dots, and cloneofsimo's numbers. Every spelling of every module stands in one table, so
that a key either is in it or is not known.
"""

import re
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from sd_scratch.checkpoints.key_rules import TEXT, UNET, single_file_names
from sd_scratch.config import ModelConfig

# {path} is our path, {flat} the same with underscores; {ldm} and {ldm_flat} are the single file's.
SPELLINGS = {
    "unet": (
        "lora_unet_{flat}",
        "lora_unet_{ldm_flat}",
        "{path}",
        "unet.{path}",
        "base_model.model.{path}",
        "diffusion_model.{ldm}",
        "model.diffusion_model.{ldm}",
    ),
    "text": (
        "lora_te_text_model_{flat}",
        "lora_te1_text_model_{flat}",
        "text_encoder.text_model.{path}",
        "text_encoder.{path}",
        "text_model.{path}",
        "base_model.model.text_model.{path}",
        "text_encoders.clip_l.transformer.text_model.{path}",
        "cond_stage_model.transformer.text_model.{path}",
    ),
}
LDM_ROOTS = {"unet": UNET, "text": TEXT}

# diffusers of early 2023 kept a LoRA in the attention's processor, whose projections have these names,
# for the text encoder too.
PROCESSOR = {
    "unet": {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"},
    "text": {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"},
}

# How a key ends, and what of a module's change the tensor is.
SLOTS = {
    f"{joint}{name}.weight": slot
    for joint, names in {
        ".lora": ("_down", "_up", "_A", "_B", "_A.default", "_B.default"),
        ".lora.": ("down", "up"),
        "_lora.": ("down", "up"),
        ".lora_linear_layer.": ("down", "up"),
    }.items()
    for name, slot in zip(names, ("down", "up") * 3, strict=False)
} | {
    ":down": "down",
    ":up": "up",
    ".lora_mid.weight": "mid",
    ".lora_magnitude_vector": "dora_scale",
    ".lora_magnitude_vector.weight": "dora_scale",
    ".w_norm": "diff",
    ".b_norm": "diff_b",
} | {
    f".{slot}": slot
    for slot in (
        "alpha", "dora_scale", "diff", "diff_b", "set_weight",
        "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
        "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
    )
}  # fmt: skip


def split_key(key: str) -> tuple[str, str] | None:
    """A key to the module's name in the file and the slot; None for a key that ends in no known way."""
    for suffix, slot in SLOTS.items():
        if key.endswith(suffix):
            return key[: -len(suffix)], slot
    return None


def module_names(networks: Mapping[str, nn.Module], config: ModelConfig) -> dict[str, str]:
    """Every spelling of every module that has a weight, to its name here, ``unet.conv_in``."""
    ours = [
        f"{part}.{path}.weight"
        for part, network in networks.items()
        for path, module in network.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor)
    ]
    names = {}
    for key, theirs in single_file_names(ours, config).items():
        module = key.removesuffix(".weight")
        part, _, path = module.partition(".")
        ldm = theirs.removesuffix(".weight").removeprefix(f"{LDM_ROOTS[part]}.")
        for spelling in _paths(part, path):
            flats = {"flat": spelling.replace(".", "_"), "ldm_flat": ldm.replace(".", "_")}
            for template in SPELLINGS[part]:
                names[template.format(path=spelling, ldm=ldm, **flats)] = module
    for part, network in networks.items():
        names |= {f"{part}:{i}": module for i, module in enumerate(_numbered(part, network))}
    return names | {
        key.replace("text:", "text_encoder:"): module
        for key, module in names.items()
        if key.startswith("text:")
    }


def _paths(part: str, path: str) -> Iterator[str]:
    """A module's own path, and what it was called inside an attention's processor."""
    yield path
    for ours, theirs in PROCESSOR[part].items():
        match = re.fullmatch(rf"(.*(?:attn\d|self_attn))\.{re.escape(ours)}", path)
        if match:
            yield f"{match[1]}.processor.{theirs}"
            yield f"{match[1]}.{theirs}"


def _numbered(part: str, network: nn.Module) -> Iterator[str]:
    """The modules in cloneofsimo's order, which is that of diffusers in 2022: a block's feed-forward
    stands between its two attentions, and the middle of the U-Net after the way up."""
    paths = [path for path, _ in network.named_modules()]
    if part == "text":
        layers = [path for path in paths if path.endswith(".self_attn")]
        leaves = [f".{name}_proj" for name in ("k", "v", "q", "out")]
    else:
        blocks = [path for path in paths if re.fullmatch(r".*transformer_blocks\.\d+", path)]
        layers = sorted(blocks, key=lambda path: path.startswith("mid_block"))
        attention = [f".{name}" for name in PROCESSOR["unet"]]
        leaves = [
            *(f".attn1{leaf}" for leaf in attention),
            ".ff.net.0.proj",
            *(f".attn2{leaf}" for leaf in attention),
        ]
    for layer in layers:
        for leaf in leaves:
            yield f"{part}.{layer}{leaf}"
