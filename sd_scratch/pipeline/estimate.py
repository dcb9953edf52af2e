"""The memory of a run's activations, estimated from sizes alone, so a run that cannot fit is refused before
anything is loaded or allocated.

The estimate counts a network's peak: the feature maps around one block, and the skips. It omits convolutions'
scratch space, a few latents and the finished pictures, so it is a lower bound, at most a fifth below the real
peak. Attention is assumed to run in the fused kernel, which never stores its probabilities.
"""

import math

import torch
from torch import Tensor

from sd_scratch.checkpoints.build import dtype_name
from sd_scratch.checkpoints.memory import require_memory
from sd_scratch.config import (
    AutoencoderConfig,
    ContextUNetConfig,
    ModelConfig,
    PixelModelConfig,
    PixelUNetConfig,
    UNetConfig,
)
from sd_scratch.networks.blocks import stack_widths
from sd_scratch.tensors import Taps

TRANSFORMER = 18  # widths: the input, twice the residual, GEGLU's value and gate and their product
# Widths that a transformer keeps for the way back: what its four norms and the projections around it read,
# q, k, v and z of one attention, q and z of the other, GEGLU's value, gate and GELU.
TRANSFORMER_KEPT = 24
ATTENTION_KEPT = 5  # of a model of pixels: what its norm and projections read; q, k, v and z
CONTEXT_UNET_KEPT = 35  # widths on the finest level, all levels together
CONTEXT_UNET = 6  # widths on the finest level: four of the way up, beside the first block's output


def unet_values(config: UNetConfig | PixelUNetConfig, height: int, width: int) -> int:
    """Numbers that are alive at once for one sample of that size, latent cells or pixels."""
    widths = config.block_out_channels
    most = 0
    for level, channels in enumerate(widths):
        below = widths[min(level + 1, len(widths) - 1)]
        block = 3 * (below + channels) + channels  # concatenated, normalised, activated; the output
        if isinstance(config, UNetConfig) and config.cross_attention[level]:
            block = max(block, TRANSFORMER * channels)
        most = max(most, block * _cells(height, width, level))
    return stack_values(config, height, width) + most


def stack_values(config: UNetConfig | PixelUNetConfig, height: int, width: int) -> int:
    """The numbers of the skips, and of a ControlNet's residuals."""
    widths = config.block_out_channels
    stack = widths[0] * height * width
    for level, channels in enumerate(widths):
        stack += config.layers_per_block * channels * _cells(height, width, level)
        if level + 1 < len(widths):
            stack += channels * _cells(height, width, level + 1)
    return stack


def gradient_values(
    config: UNetConfig | PixelUNetConfig | ContextUNetConfig, height: int, width: int
) -> int:
    """Numbers of one sample that a call of the U-Net keeps for a backward pass to its inputs: the inputs of
    norms, SiLU and convolutions, and the factors of fused attention."""
    if isinstance(config, ContextUNetConfig):
        return CONTEXT_UNET_KEPT * config.features * height * width
    widths, layers = config.block_out_channels, config.layers_per_block
    if isinstance(config, UNetConfig):
        attention, attended, made = config.cross_attention, TRANSFORMER_KEPT, 3
    else:  # there scale and shift read what the second norm has made
        attention, attended, made = config.attention, ATTENTION_KEPT, 4
    stack, last = stack_widths(widths, layers), len(widths) - 1

    def block(level: int, entering: int, attends: bool) -> int:
        read = 3 * entering + (made + attended * attends) * widths[level]
        return read * _cells(height, width, level)

    total = block(last, widths[-1], True) + block(last, widths[-1], False)  # the middle
    below = widths[0]
    for level, channels in enumerate(widths):
        for _ in range(layers):
            total += block(level, below, attention[level])
            below = channels
    for level in reversed(range(len(widths))):
        for _ in range(layers + 1):
            total += block(level, below + stack.pop(), attention[level])
            below = widths[level]
    return total


def kept_bytes(
    taps: Taps, config: UNetConfig | PixelUNetConfig | ContextUNetConfig, calls: int, x: Tensor,
    dtype: torch.dtype = torch.float32, gradients: bool = True,
) -> int:  # fmt: skip
    """The bytes that a run keeps until its end: recorded tensors, and with `gradients` what each of so many
    calls for x, in all branches, keeps for the backward pass."""
    kept, (batch, _, h, w) = taps.kept_bytes, x.shape
    if taps.gradients and gradients:
        kept += calls * batch * gradient_values(config, h, w) * dtype.itemsize
    return kept


def decoder_values(config: AutoencoderConfig, height: int, width: int, strips: bool = False) -> int:
    """The same for the autoencoder's decoder, whole or in strips, with the picture's sides in pixels."""
    widths = config.block_out_channels
    most = 0
    for level, channels in enumerate(widths):
        below = widths[min(level + 1, len(widths) - 1)]
        # The first block's input, its norm and SiLU; or at later ones the level's input and three of theirs.
        block = max(3 * below, below + 3 * channels)
        if strips:  # the first block's input, and what its two convolutions make
            block = below + 2 * channels
        most = max(most, block * _cells(height, width, level))
    return most


def run_bytes(
    config: ModelConfig,
    width: int,
    height: int,
    batch: int,
    dtype: torch.dtype,
    *,
    branches: int = 2,
    controls: int = 0,
    strips: bool = False,
) -> int:
    """Bytes of activations of a text-to-image run: the U-Net's or the decoder's, whichever is larger.

    `width` and `height` in pixels; `branches` are 2 with guidance and 1 without. In `strips` pictures are
    decoded one after the other.
    """
    strips = strips and isinstance(config.vae, AutoencoderConfig)
    cell = config.vae.downscale
    size = (math.ceil(height / cell), math.ceil(width / cell))
    unet = unet_values(config.unet, *size) + controls * stack_values(config.unet, *size)
    decoder = decoder_values(config.vae, height, width, strips) * (1 if strips else batch)
    return int(max(unet * branches * batch, decoder) * dtype.itemsize)


def pixel_bytes(config: PixelModelConfig, batch: int, *, branches: int = 2) -> int:
    """The same for a pixel model, in fp32."""
    network, side = config.network, config.network.sample_size
    if isinstance(network, ContextUNetConfig):
        values = CONTEXT_UNET * network.features * side * side
    else:
        values = unet_values(network, side, side)
    return values * branches * batch * torch.float32.itemsize


def check_run(
    config: ModelConfig,
    width: int,
    height: int,
    batch: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    weights: int = 0,
    branches: int = 2,
    controls: int = 0,
    strips: bool = True,
    kept: int = 0,
) -> None:
    """Raise MemoryShortage, in one line, for a run that cannot fit into what the device has free.

    `weights` are the bytes that are not loaded yet; without `strips` pictures are decoded whole; `kept` are
    the bytes of recordings, and for gradients.
    """
    needed = run_bytes(
        config, width, height, batch, dtype, branches=branches, controls=controls, strips=strips
    )
    beside = " beside the weights" if weights else ""
    beside += " with all that is recorded or kept for gradients" if kept else ""
    pictures = f"{batch} pictures" if batch > 1 else "one picture"
    require_memory(
        needed + weights + kept,
        f"{pictures} of {width}x{height} as {dtype_name(dtype)}{beside} would take at least",
        device,
        "make them smaller, fewer at a time, compute in half precision, or force it",
    )


def check_pixel_run(
    config: PixelModelConfig, batch: int, device: torch.device, *, branches: int = 2, kept: int = 0
) -> None:
    """The same for a loaded pixel model."""
    side = config.network.sample_size
    require_memory(
        pixel_bytes(config, batch, branches=branches) + kept,
        f"{batch} pictures of {side}x{side} would take at least",
        device,
        "make fewer at a time",
    )


def _cells(height: int, width: int, level: int) -> int:
    return math.ceil(height / (1 << level)) * math.ceil(width / (1 << level))
