"""The KL autoencoder: pictures to latents an eighth of their size, and back.

Rombach et al. 2022 (arXiv:2112.10752), section 3.1. The plan for SD 1.x at 512x512:

    encoder   512 x 128  ->  256 x 256  ->  128 x 512  ->  64 x 512  ->  middle  ->  8 moments
    decoder    64 x 512  ->  128 x 512  ->  256 x 256  ->  512 x 128  ->  3 colours
              (side x channels)

Latents inside this file are raw; the U-Net sees them times ``config.scaling_factor``
(`Autoencoder.to_latent`, `Autoencoder.from_latent`).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.config import AutoencoderConfig
from sd_scratch.networks.attention import Attention
from sd_scratch.networks.blocks import MidBlock
from sd_scratch.networks.layers import Conv2d, Downsample, ResnetBlock, Upsample
from sd_scratch.networks.strips import in_strips
from sd_scratch.tensors import Tapped

NORM_EPS = 1e-6  # every GroupNorm of the autoencoder; the U-Net's residual blocks use 1e-5


class Posterior(NamedTuple):
    """The encoder's diagonal Gaussian over raw latents, mean and logvar both ``[B, 4, H/8, W/8]``."""

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        return torch.exp(0.5 * self.logvar)

    def sample(self, noise: Tensor) -> Tensor:
        """A draw from it, with `noise` (standard normal, shaped like the mean) given by the caller."""
        return self.mean + self.std * noise

    def kl(self) -> Tensor:
        """KL divergence from the standard normal, summed over each picture: ``[B]`` (Kingma &
        Welling 2013, appendix B)."""
        terms = self.mean.square() + self.logvar.exp() - 1 - self.logvar
        return 0.5 * terms.flatten(1).sum(dim=1)


class SpatialAttention(Attention):
    """One head of self-attention over all positions of a feature map."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, heads=1, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        B, C, H, W = x.shape
        x = self.tap("in", x)
        h = self.tap("norm", self.group_norm(x)).flatten(2).transpose(1, 2)  # [B, H*W, C]
        h = super().forward(h).transpose(1, 2).reshape(B, C, H, W)
        return self.tap("resid_out", x + h)


class Level(nn.Module):
    """One level of the encoder or the decoder: residual blocks, then half or twice the side. `parts` are these
    layers under the checkpoints' names: ``resnets``, and ``downsamplers`` or ``upsamplers``."""

    def __init__(self, **parts: Iterable[nn.Module]) -> None:
        super().__init__()
        for name, layers in parts.items():
            self.add_module(name, nn.ModuleList(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layers in self.children():
            for layer in layers:  # type: ignore[attr-defined]
                x = layer(x)
        return x


def down_blocks(config: AutoencoderConfig) -> Iterator[Level]:
    """From the picture's side to the latent's, which is not halved again."""
    widths = config.block_out_channels
    entering = widths[0]
    for level, width in enumerate(widths):
        halves = level < len(widths) - 1
        yield Level(
            resnets=_resnets(config, entering, width, config.layers_per_block),
            downsamplers=[Downsample(width, pad_right_bottom_only=True)] if halves else [],
        )
        entering = width


def mid_block(config: AutoencoderConfig) -> MidBlock:
    """At the latent's side: residual, attention, residual."""
    width = config.block_out_channels[-1]
    return MidBlock(
        resnets=_resnets(config, width, width, 2),
        attentions=[SpatialAttention(width, config.norm_num_groups)],
    )


def up_blocks(config: AutoencoderConfig) -> Iterator[Level]:
    """From the latent's side to the picture's, with one residual block more a level than the encoder."""
    entering = config.block_out_channels[-1]
    for level, width in reversed(list(enumerate(config.block_out_channels))):
        yield Level(
            resnets=_resnets(config, entering, width, config.layers_per_block + 1),
            upsamplers=[Upsample(width)] if level > 0 else [],
        )
        entering = width


def _resnets(
    config: AutoencoderConfig, entering: int, width: int, count: int
) -> Iterator[ResnetBlock]:
    for channels in [entering] + [width] * (count - 1):
        yield ResnetBlock(channels, width, config.norm_num_groups, NORM_EPS)


class Encoder(Tapped):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(down_blocks(config))
        self.mid_block = mid_block(config)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=NORM_EPS)
        self.conv_out = Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        h = self.tap("conv_in", self.conv_in(image))
        for block in self.down_blocks:
            h = block(h)
        h = self.mid_block(h)
        h = self.tap("norm_out", self.conv_norm_out(h))
        return self.tap("conv_out", self.conv_out(F.silu(h)))


class Decoder(Tapped):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = mid_block(config)
        self.up_blocks = nn.ModuleList(up_blocks(config))
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=NORM_EPS)
        self.conv_out = Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.tap("conv_in", self.conv_in(z))
        h = self.mid_block(h)
        for block in self.up_blocks:
            h = block(h)
        h = self.tap("norm_out", self.conv_norm_out(h))
        image: Tensor = self.conv_out(F.silu(h))
        return image


class Autoencoder(Tapped):
    """Encoder and decoder with the 1x1 convolutions between them.

    Images are ``[B, 3, H, W]`` in -1..1 with H and W multiples of ``config.downscale``.
    """

    stepwise = branched = False
    in_strips = False  # in strips of rows, with less memory, if nothing listens

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode(self, image: Tensor, strips: bool = False) -> Posterior:
        """``[B, 3, H, W]`` in -1..1 -> the posterior over raw latents ``[B, 4, H/8, W/8]``."""
        h = self._through(self.encoder, image, strips)
        moments = self.tap("moments", self.quant_conv(h))
        mean, logvar = moments.chunk(2, dim=1)
        logvar = logvar.clamp(-30.0, 20.0)  # as CompVis: exp() stays finite
        return Posterior(self.tap("mean", mean), self.tap("logvar", logvar))

    def decode(self, z: Tensor, strips: bool = False) -> Tensor:
        """Raw latents ``[B, 4, h, w]`` -> images ``[B, 3, 8h, 8w]``, about -1..1 and not clamped."""
        h = self.tap("post_quant_conv", self.post_quant_conv(self.tap("z", z)))
        return self.tap("image", self._through(self.decoder, h, strips))

    def _through(self, network: Encoder | Decoder, x: Tensor, strips: bool) -> Tensor:
        heard = any(getattr(module, "probe", None) is not None for module in network.modules())
        strips = (strips or self.in_strips) and not heard
        out: Tensor = in_strips(network, x) if strips else network(x)
        return out

    def to_latent(self, z: Tensor) -> Tensor:
        """Raw latents to the unit-variance ones that the U-Net sees."""
        return z * self.config.scaling_factor

    def from_latent(self, latent: Tensor) -> Tensor:
        """The U-Net's latents to raw ones."""
        return latent / self.config.scaling_factor
