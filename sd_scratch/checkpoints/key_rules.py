"""The names of the single-file layout (CompVis, A1111) and of the networks here, both ways.

CompVis counts a U-Net's blocks through (``input_blocks.7.1`` is the transformer of the third level's
first layer), diffusers counts levels and layers. One table of places says which is which, for any number
of levels and layers; smaller tables say what the tensors inside a residual block or an attention are
called. Everything else has the same name in both.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from sd_scratch.config import ModelConfig

UNET, VAE = "model.diffusion_model", "first_stage_model"
TEXT = "cond_stage_model.transformer.text_model"

RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_RESIDUAL = {"conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
MIXED_ATTENTION = re.compile(
    rf"({re.escape(VAE)}\.(?:en|de)coder\.mid\.attn_1\.)"
    rf"({'|'.join(map(re.escape, VAE_ATTENTION))})(\.weight|\.bias)"
)


@dataclass(frozen=True)
class Counts:
    """What the positions of blocks depend on."""

    layers: int  # of the U-Net, per level on the way down
    attends: tuple[bool, ...]  # the U-Net's levels on the way up, coarsest first
    vae_levels: int

    @staticmethod
    def of(config: ModelConfig) -> "Counts":
        return Counts(
            config.unet.layers_per_block,
            config.unet.cross_attention[::-1],
            len(config.vae.block_out_channels),
        )


# Our numbers in a name to the single file's.
def same(_: Counts, *numbers: int) -> tuple[int, ...]:
    return numbers


def down(counts: Counts, level: int, layer: int) -> tuple[int, ...]:
    return (1 + level * (counts.layers + 1) + layer,)  # block 0 is the first convolution


def downsampler(counts: Counts, level: int) -> tuple[int, ...]:
    return ((level + 1) * (counts.layers + 1),)


def up(counts: Counts, level: int, layer: int) -> tuple[int, ...]:
    return (level * (counts.layers + 1) + layer,)


def upsampler(counts: Counts, level: int) -> tuple[int, ...]:
    # Last in its block: after the residual block and, where there is one, the transformer.
    return (level * (counts.layers + 1) + counts.layers, 2 if counts.attends[level] else 1)


def mirrored(counts: Counts, level: int, *rest: int) -> tuple[int, ...]:
    return (counts.vae_levels - 1 - level, *rest)  # CompVis numbers the way up by resolution too


@dataclass(frozen=True)
class Rule:
    """A module here and in a single file; ``{}`` stands for a number, `leaves` for what is inside."""

    ours: str
    theirs: str
    numbers: Callable[..., tuple[int, ...]] = same
    leaves: Mapping[str, str] = field(default_factory=dict)

    def apply(self, key: str, counts: Counts) -> str | None:
        """The single file's name of our tensor `key`, or None when the rule is not about it."""
        pattern = re.escape(self.ours).replace(r"\{\}", r"(\d+)") + r"\.(.+)"
        match = re.fullmatch(pattern, key)
        if match is None:
            return None
        *numbers, rest = match.groups()
        for ours, theirs in self.leaves.items():
            if rest.startswith(ours + "."):
                rest = theirs + rest[len(ours) :]
                break
        theirs = self.theirs.format(*self.numbers(counts, *map(int, numbers)))
        return f"{theirs}.{rest}"


# The first rule that fits is used.
RULES = (
    Rule("unet.time_embedding.linear_1", f"{UNET}.time_embed.0"),
    Rule("unet.time_embedding.linear_2", f"{UNET}.time_embed.2"),
    Rule("unet.conv_in", f"{UNET}.input_blocks.0.0"),
    Rule("unet.down_blocks.{}.resnets.{}", f"{UNET}.input_blocks.{{}}.0", down, RESIDUAL),
    Rule("unet.down_blocks.{}.attentions.{}", f"{UNET}.input_blocks.{{}}.1", down),
    Rule("unet.down_blocks.{}.downsamplers.0.conv", f"{UNET}.input_blocks.{{}}.0.op", downsampler),
    Rule("unet.mid_block.resnets.0", f"{UNET}.middle_block.0", leaves=RESIDUAL),
    Rule("unet.mid_block.attentions.0", f"{UNET}.middle_block.1"),
    Rule("unet.mid_block.resnets.1", f"{UNET}.middle_block.2", leaves=RESIDUAL),
    Rule("unet.up_blocks.{}.resnets.{}", f"{UNET}.output_blocks.{{}}.0", up, RESIDUAL),
    Rule("unet.up_blocks.{}.attentions.{}", f"{UNET}.output_blocks.{{}}.1", up),
    Rule("unet.up_blocks.{}.upsamplers.0", f"{UNET}.output_blocks.{{}}.{{}}", upsampler),
    Rule("unet.conv_norm_out", f"{UNET}.out.0"),
    Rule("unet.conv_out", f"{UNET}.out.2"),
    Rule("vae.encoder.down_blocks.{}.resnets.{}", f"{VAE}.encoder.down.{{}}.block.{{}}",
         same, VAE_RESIDUAL),
    Rule("vae.encoder.down_blocks.{}.downsamplers.0", f"{VAE}.encoder.down.{{}}.downsample"),
    Rule("vae.decoder.up_blocks.{}.resnets.{}", f"{VAE}.decoder.up.{{}}.block.{{}}",
         mirrored, VAE_RESIDUAL),
    Rule("vae.decoder.up_blocks.{}.upsamplers.0", f"{VAE}.decoder.up.{{}}.upsample", mirrored),
    *(
        rule
        for half in ("encoder", "decoder")
        for rule in (
            Rule(f"vae.{half}.mid_block.resnets.0", f"{VAE}.{half}.mid.block_1"),
            Rule(f"vae.{half}.mid_block.attentions.0", f"{VAE}.{half}.mid.attn_1",
                 leaves=VAE_ATTENTION),
            Rule(f"vae.{half}.mid_block.resnets.1", f"{VAE}.{half}.mid.block_2"),
            Rule(f"vae.{half}.conv_norm_out", f"{VAE}.{half}.norm_out"),
        )
    ),
    Rule("vae", VAE),
    Rule("text", TEXT),
)  # fmt: skip

# Known, and left aside on purpose: the schedule's tables, which are computed here; the averaged copy of
# the U-Net, whose plain weights are used; and a constant 0..76 that old versions of transformers stored.
AVERAGED = "model_ema."
SCHEDULE_TABLES = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)


def is_ignored(key: str) -> bool:
    """Whether a key of a single file is known and not used."""
    return key in SCHEDULE_TABLES or key.startswith(AVERAGED) or key.endswith(".position_ids")


def averaged_name(key: str) -> str:
    """Where CompVis' training keeps the average of a tensor of the single-file layout's."""
    return AVERAGED + key.removeprefix("model.").replace(".", "")


# What stands between the dots of a U-Net's names, which its average's lack.
WORD = re.compile(
    r"(?:input|output)_blocks|time_embed|middle_block|(?:in|emb|out)_layers|skip_connection|transformer_blocks"
    r"|attn[12]|norm[123]|norm|to_out|to_[qkv]|proj_in|proj_out|proj|ff|net|op|conv|out|weight|bias|\d"
)
# The block, and what in it, which is one digit.
COUNTED = re.compile(r"((?:input|output)_blocks)(\d+)(\d)")


def of_average(key: str) -> str:
    """The inverse of `averaged_name`: a name of the U-Net's with its dots, or the same where it is none."""
    head, _, name = key.partition("diffusion_model")
    if head != AVERAGED or not name:
        return key
    block = COUNTED.match(name)
    words = [*block.groups()] if block else []
    words += WORD.findall(name[block.end() :] if block else name)
    found = ".".join([UNET, *words])
    return found if averaged_name(found) == key else key


def single_file_names(ours: Iterable[str], config: ModelConfig) -> dict[str, str]:
    """Our tensors' names (``unet.conv_in.weight``) to those of the single-file layout, one to one.

    A part that the layout knows nothing of keeps its names. Raises KeyError for any other name that no
    rule is about: that is a mistake in the table.
    """
    counts = Counts.of(config)
    known = {rule.ours.partition(".")[0] for rule in RULES}
    return {k: _theirs(k, counts) if k.partition(".")[0] in known else k for k in ours}


def is_vae_attention(key: str) -> bool:
    """Whether one of our weights is a linear layer here and a 1x1 convolution in a single file."""
    attention = key.startswith("vae.") and ".attentions." in key
    return attention and key.endswith(".weight") and "group_norm" not in key


def usual_name(key: str) -> str:
    """A single file's key as the layout spells it: without the wrappers of a compiled and a parallel module, with the
    ``text_model.`` that files of NovelAI's type lack, and with the autoencoder's attention as CompVis
    named it where diffusers' names are used."""
    key = key.replace("_orig_mod.", "").removeprefix("module.")
    outer = TEXT.removesuffix("text_model")
    if key.startswith(outer) and not key.startswith(TEXT):
        return f"{TEXT}.{key[len(outer) :]}"
    if match := MIXED_ATTENTION.fullmatch(key):
        return f"{match[1]}{VAE_ATTENTION[match[2]]}{match[3]}"
    return key


def _theirs(key: str, counts: Counts) -> str:
    for rule in RULES:
        name = rule.apply(key, counts)
        if name is not None:
            return name
    raise KeyError(key)
