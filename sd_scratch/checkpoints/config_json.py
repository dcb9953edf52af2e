"""The networks' `config.json` files in a diffusers folder, read into this package's dataclasses and written back.

A configuration is data: a fixed list of keys is read, each with its type and range, and no class or
file that it names is looked up. What the networks here cannot express is refused by its key, because
weights that load into the wrong network give noise and no error.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sd_scratch.checkpoints import keys
from sd_scratch.checkpoints.family import ONLY
from sd_scratch.config import AutoencoderConfig, TextEncoderConfig, UNetConfig
from sd_scratch.errors import ScratchError
from sd_scratch.json_file import Fields

MAX_WIDTH = 16384
MAX_LEVELS = 8
LATENT_SIZE = 64  # cells along one side, where a file does not say
LARGEST_SIZE = 256  # cells: a default picture of more would be a mistake, and take minutes

# What a number of any of the networks may be, by its key: integers, and numbers where a limit is one.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("in_channels", "out_channels", "latent_channels"), (1, 64)),
    **dict.fromkeys(("hidden_size", "cross_attention_dim", "projection_dim"), (1, MAX_WIDTH)),
    **dict.fromkeys(("norm_num_groups", "attention_head_dim"), (1, MAX_WIDTH)),
    "dropout": (0.0, 0.9),
    "features": (8, MAX_WIDTH),
    "image_size": (1, 1024),
    "intermediate_size": (1, 4 * MAX_WIDTH),
    "last_timestep": (1, 100_000),
    "layer_norm_eps": (0.0, 0.1),
    "layers_per_block": (1, 8),
    "max_position_embeddings": (3, 4096),
    "num_attention_heads": (1, 256),
    "num_classes": (1, 1000),
    "num_hidden_layers": (1, 64),
    "patch_size": (1, 1024),
    "sample_size": (1, 1024),
    "scaling_factor": (1e-6, 1e6),
    "vocab_size": (1, 1_000_000),
}

DOWN_PLAIN, DOWN_CROSS = "DownBlock2D", "CrossAttnDownBlock2D"
UP_PLAIN, UP_CROSS = "UpBlock2D", "CrossAttnUpBlock2D"

# What diffusers takes as one value or as a list with one for each level.
PER_LEVEL = (
    "attention_head_dim",
    "cross_attention_dim",
    "layers_per_block",
    "num_attention_heads",
    "only_cross_attention",
    "reverse_transformer_layers_per_block",
    "transformer_layers_per_block",
)


def numbers(fields: Fields, **defaults: float | None) -> dict[str, Any]:
    """The values of some keys, held against `RANGES`; an absent one is its default, and wrong where that is None."""
    return {
        key: fields.integer(key, *RANGES[key], default)  # type: ignore[arg-type]
        if isinstance(RANGES[key][0], int)
        else fields.number(key, *RANGES[key], default)
        for key, default in defaults.items()
    }


def transformer(fields: Fields, **defaults: float | None) -> dict[str, Any]:
    """The same for one of CLIP's transformers, with what all of them have."""
    acts = ("quick_gelu", "gelu")
    found = numbers(fields, num_hidden_layers=12, layer_norm_eps=1e-5, **defaults)
    _check_divides(
        fields, "num_attention_heads", found["num_attention_heads"], [found["hidden_size"]]
    )
    return {**found, "hidden_act": fields.choice("hidden_act", acts, "quick_gelu")}


def unet_config(fields: Fields) -> UNetConfig:
    """`unet/config.json`. Absent keys mean diffusers' defaults."""
    widths = fields.integers("block_out_channels", 4, MAX_WIDTH, MAX_LEVELS, (320, 640, 1280, 1280))
    levels = len(widths)
    fields = fields.spread(levels, *PER_LEVEL)
    keys.UNET.check(fields)
    down = fields.strings(
        "down_block_types", (DOWN_CROSS, DOWN_PLAIN), [DOWN_CROSS] * (levels - 1) + [DOWN_PLAIN]
    )
    up = fields.strings(
        "up_block_types", (UP_CROSS, UP_PLAIN), [UP_PLAIN] + [UP_CROSS] * (levels - 1)
    )
    cross_attention = tuple(block == DOWN_CROSS for block in down)
    if len(down) != levels:
        fields.fail("down_block_types", f"a list of {levels} blocks, as block_out_channels")
    if tuple(block == UP_CROSS for block in reversed(up)) != cross_attention:
        fields.fail("up_block_types", "down_block_types in reverse order")
    config = UNetConfig(
        **numbers(
            fields,
            in_channels=4,
            out_channels=4,
            layers_per_block=2,
            cross_attention_dim=1280,
            norm_num_groups=32,
        ),
        block_out_channels=widths,
        cross_attention=cross_attention,
        num_attention_heads=_heads(fields, levels),
        use_linear_projection=fields.flag("use_linear_projection", False),
        upcast_attention=fields.data.get("upcast_attention") is not None
        and fields.flag("upcast_attention", False),
    )
    _check_divides(fields, "norm_num_groups", config.norm_num_groups, widths)
    for level, width in enumerate(widths):
        if cross_attention[level] or level == levels - 1:
            _check_divides(fields, "attention_head_dim", config.heads(level), [width])
    return config


def _heads(fields: Fields, levels: int) -> int | tuple[int, ...]:
    if not isinstance(fields.data.get("attention_head_dim"), list):
        return fields.integer("attention_head_dim", 1, 256, 8)
    heads = fields.integers("attention_head_dim", 1, 256, MAX_LEVELS)
    if len(heads) != levels:
        fields.fail("attention_head_dim", f"one number of heads, or {levels} as block_out_channels")
    return heads


def latent_size(fields: Fields) -> int:
    """Cells along one side of the pictures that a U-Net was trained on, from `unet/config.json`."""
    size: Any = fields.data.get("sample_size")
    if isinstance(size, list) and len(size) == 2:
        if size[0] != size[1]:
            fields.warn("sample_size", "has two sides: the first is the default for both")
        fields = Fields(fields.data | {"sample_size": size[0]}, fields.where)
    elif size is None:
        return LATENT_SIZE
    cells = fields.integer("sample_size", 1, LARGEST_SIZE)
    version = re.match(r"(\d+)\.(\d+)", str(fields.data.get("_diffusers_version", "")))
    before_0_9 = version is not None and (int(version[1]), int(version[2])) < (0, 9)
    # Fine-tunes of Stable Diffusion 1.x carried 32 until then, and mean 64.
    return LATENT_SIZE if before_0_9 and cells < LATENT_SIZE else cells


def autoencoder_config(fields: Fields) -> AutoencoderConfig:
    """`vae/config.json`. Absent keys mean diffusers' defaults."""
    keys.VAE.check(fields)
    widths = fields.integers("block_out_channels", 4, MAX_WIDTH, MAX_LEVELS, (64,))
    for key, block in (
        ("down_block_types", "DownEncoderBlock2D"),
        ("up_block_types", "UpDecoderBlock2D"),
    ):
        if len(fields.strings(key, (block,), [block] * len(widths))) != len(widths):
            fields.fail(key, f"a list of {len(widths)} blocks, as block_out_channels")
    config = AutoencoderConfig(
        **numbers(
            fields,
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=32,
            scaling_factor=0.18215,
        ),
        block_out_channels=widths,
    )
    _check_divides(fields, "norm_num_groups", config.norm_num_groups, widths)
    return config


def text_encoder_config(fields: Fields) -> TextEncoderConfig:
    """`text_encoder/config.json`, also of a whole CLIP. Absent keys mean transformers' defaults."""
    keys.TEXT.check(fields)
    if "text_config" in fields.data and fields.data.get("model_type") == "clip":
        fields = fields.nested("text_config")
        keys.TEXT.check(fields)
    return TextEncoderConfig(
        **transformer(
            fields,
            vocab_size=49408,
            hidden_size=512,
            intermediate_size=2048,
            num_attention_heads=8,
            max_position_embeddings=77,
        )
    )


def unet_json(config: UNetConfig, sample_size: int) -> dict[str, Any]:
    """The inverse of `unet_config`; `sample_size` in latent cells."""
    down = [DOWN_CROSS if on else DOWN_PLAIN for on in config.cross_attention]
    up = [UP_CROSS if on else UP_PLAIN for on in reversed(config.cross_attention)]
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": heads_json(config),
        "block_out_channels": list(config.block_out_channels),
        "center_input_sample": False,
        "cross_attention_dim": config.cross_attention_dim,
        "down_block_types": down,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": config.in_channels,
        "layers_per_block": config.layers_per_block,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": config.norm_num_groups,
        "out_channels": config.out_channels,
        "sample_size": sample_size,
        "up_block_types": up,
        "upcast_attention": config.upcast_attention,
        "use_linear_projection": config.use_linear_projection,
    }


def heads_json(config: UNetConfig) -> int | list[int]:
    heads = config.num_attention_heads
    return heads if isinstance(heads, int) else list(heads)


def autoencoder_json(config: AutoencoderConfig, sample_size: int) -> dict[str, Any]:
    """The inverse of `autoencoder_config`; `sample_size` in pixels."""
    levels = len(config.block_out_channels)
    return {
        **asdict(config),
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": list(config.block_out_channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "sample_size": sample_size,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def text_encoder_json(config: TextEncoderConfig) -> dict[str, Any]:
    """The inverse of `text_encoder_config`."""
    return {
        **asdict(config),
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "model_type": "clip_text_model",
        "projection_dim": config.hidden_size,
    }


def name_family(fields: Fields) -> None:
    """A U-Net of a known other family is named before any of its keys is complained about."""
    if fields.data.get("addition_embed_type") == "text_time":
        raise ScratchError(f"{fields.where} - this is Stable Diffusion XL - {ONLY}")
    if fields.data.get("class_embed_type") == "projection":
        raise ScratchError(f"{fields.where} - this is Stable Diffusion 2.1 unCLIP - {ONLY}")


def _check_divides(fields: Fields, key: str, divisor: int, widths: Sequence[int]) -> None:
    for width in widths:
        if width % divisor:
            fields.fail(key, f"a divisor of the width {width}")
