"""The sizes of a single file's networks, from its tensors' shapes.

Shapes tell neither the number of heads nor the groups of norms: these are taken from Stable Diffusion (8
heads in the U-Net of 1.x and 64 channels a head in that of 2.x, 64 channels a head in the text encoder, 32
groups). Files written by this package carry their configuration in the header instead.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path

from sd_scratch.checkpoints.family import SD2_CONTEXT
from sd_scratch.checkpoints.key_rules import TEXT, UNET, VAE
from sd_scratch.checkpoints.open_clip import as_open_clip
from sd_scratch.checkpoints.safetensors_file import StoredTensor
from sd_scratch.config import AutoencoderConfig, TextEncoderConfig, UNetConfig
from sd_scratch.errors import ScratchError

HEAD_WIDTH = 64


class Shapes:
    """The shapes of a single file's tensors, by name."""

    def __init__(self, path: Path, tensors: Mapping[str, StoredTensor]) -> None:
        self.path = path
        self.tensors = tensors

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def shape(self, key: str) -> tuple[int, ...]:
        """A tensor's shape, () for one that is not there."""
        return self.tensors[key].shape if key in self.tensors else ()

    def size(self, key: str, axis: int) -> int:
        """One side of a tensor that the file must have."""
        if key not in self.tensors or axis >= len(self.tensors[key].shape):
            raise ScratchError(
                f"{self.path} - {key} is missing or has another shape - the file is incomplete or of"
                " another kind of model"
            )
        return self.tensors[key].shape[axis]

    def count(self, template: str) -> int:
        """How many of ``template.format(0), template.format(1), ...`` there are without a gap."""
        return next(n for n in itertools.count() if template.format(n) not in self)


def unet(shapes: Shapes) -> UNetConfig:
    """Walk down the U-Net's blocks: each is a layer, or the convolution that ends a level."""
    block = UNET + ".input_blocks.{}"
    layer, halving = block + ".0.in_layers.2.weight", block + ".0.op.weight"
    levels: list[list[int]] = [[]]  # per level, the numbers of its layers' blocks
    for n in itertools.count(1):
        if halving.format(n) in shapes:
            levels.append([])
        elif layer.format(n) in shapes:
            levels[-1].append(n)
        else:
            break
    if not all(levels) or len({len(blocks) for blocks in levels}) != 1:
        raise ScratchError(f"{shapes.path} - the U-Net's blocks have gaps - the file is incomplete")
    attends = tuple(f"{block.format(blocks[0])}.1.norm.weight" in shapes for blocks in levels)
    widths = tuple(shapes.size(layer.format(blocks[0]), 0) for blocks in levels)
    linear = len(shapes.shape(f"{UNET}.middle_block.1.proj_in.weight")) == 2  # only in 2.x
    return UNetConfig(
        in_channels=shapes.size(f"{UNET}.input_blocks.0.0.weight", 1),
        out_channels=shapes.size(f"{UNET}.out.2.weight", 0),
        block_out_channels=widths,
        cross_attention=attends,
        layers_per_block=len(levels[0]),
        num_attention_heads=tuple(max(w // HEAD_WIDTH, 1) for w in widths) if linear else 8,
        use_linear_projection=linear,
        upcast_attention=linear,
        cross_attention_dim=shapes.size(
            f"{UNET}.middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1
        ),
    )


def autoencoder(
    shapes: Shapes, root: str = f"{VAE}.", block: str = "down.{}.block.{}"
) -> AutoencoderConfig:
    """`root` is what its names begin with, and `block` a residual block's name on the way down."""
    convolution = f"{root}encoder.{block}.conv1.weight"
    levels = max(shapes.count(convolution.format("{}", 0)), 1)
    return AutoencoderConfig(
        in_channels=shapes.size(f"{root}encoder.conv_in.weight", 1),
        out_channels=shapes.size(f"{root}decoder.conv_out.weight", 0),
        latent_channels=shapes.size(f"{root}post_quant_conv.weight", 0),
        block_out_channels=tuple(shapes.size(convolution.format(n, 0), 0) for n in range(levels)),
        layers_per_block=shapes.count(convolution.format(0, "{}")),
    )


def text_encoder(shapes: Shapes) -> TextEncoderConfig:
    width = shapes.size(f"{TEXT}.embeddings.token_embedding.weight", 1)
    config = TextEncoderConfig(
        vocab_size=shapes.size(f"{TEXT}.embeddings.token_embedding.weight", 0),
        hidden_size=width,
        intermediate_size=shapes.size(f"{TEXT}.encoder.layers.0.mlp.fc1.weight", 0),
        num_hidden_layers=shapes.count(TEXT + ".encoder.layers.{}.mlp.fc1.weight"),
        num_attention_heads=max(width // HEAD_WIDTH, 1),
        max_position_embeddings=shapes.size(f"{TEXT}.embeddings.position_embedding.weight", 0),
    )
    context = shapes.size(f"{UNET}.middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1)
    return as_open_clip(config) if context == SD2_CONTEXT else config
