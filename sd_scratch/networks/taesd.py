"""TAESD: a small autoencoder on the latents of a large one (Bohan 2023, github.com/madebyollin/taesd).

Plain residual blocks of one width, no norms and no attention: a picture for a fiftieth of the work, with less
detail. Attributes have diffusers' names (`AutoencoderTiny`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.config import TinyAutoencoderConfig
from sd_scratch.errors import UsageError
from sd_scratch.networks.autoencoder import Posterior
from sd_scratch.tensors import Tapped

CLAMP = 3.0  # latents are led into -3..3 softly


class TinyBlock(Tapped):
    """Three 3x3 convolutions around a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(
            convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.tap("out", F.relu(self.conv(x) + x))


class TinyEncoder(Tapped):
    """Images ``[B, 3, H, W]`` in 0..1 to latents ``[B, 4, H/8, W/8]``."""

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        width = config.block_out_channels[0]
        layers: list[nn.Module] = [nn.Conv2d(config.in_channels, width, 3, padding=1)]
        layers.append(TinyBlock(width))
        for _ in config.block_out_channels[1:]:
            layers.append(nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False))
            layers += [TinyBlock(width) for _ in range(config.layers_per_block)]
        layers.append(nn.Conv2d(width, config.latent_channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        latent: Tensor = self.layers(image)
        return latent


class TinyDecoder(Tapped):
    """Latents ``[B, 4, h, w]`` to images ``[B, 3, 8h, 8w]``, about 0..1."""

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        width = config.block_out_channels[0]
        layers: list[nn.Module] = [
            nn.Conv2d(config.latent_channels, width, 3, padding=1),
            nn.ReLU(),
        ]
        for _ in config.block_out_channels[1:]:
            layers += [TinyBlock(width) for _ in range(config.layers_per_block)]
            layers.append(nn.Upsample(scale_factor=2))
            layers.append(nn.Conv2d(width, width, 3, padding=1, bias=False))
        layers += [TinyBlock(width), nn.Conv2d(width, config.out_channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        image: Tensor = self.layers(torch.tanh(latent / CLAMP) * CLAMP)
        return image


class TinyAutoencoder(Tapped):
    """The small autoencoder in place of the large one. Its latents are scaled as the U-Net sees them.

    Images are ``[B, 3, H, W]`` in -1..1 with H and W multiples of 8. A file with only the decoder cannot
    encode pictures.
    """

    stepwise = branched = False

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = TinyEncoder(config) if config.encodes else None
        self.decoder = TinyDecoder(config)

    def encode(self, image: Tensor) -> Posterior:
        """``[B, 3, H, W]`` in -1..1 -> latents without spread. Raises UsageError without an encoder."""
        if self.encoder is None:
            raise UsageError(
                "this VAE is a TAESD decoder alone and cannot take a picture in - use the whole TAESD,"
                " or the model's own VAE"
            )
        mean = self.tap("mean", self.encoder(image * 0.5 + 0.5))
        return Posterior(mean, torch.full_like(mean, -30.0))

    def decode(self, z: Tensor) -> Tensor:
        """Latents ``[B, 4, h, w]`` -> images ``[B, 3, 8h, 8w]``, about -1..1 and not clamped."""
        return self.tap("image", self.decoder(self.tap("z", z)) * 2 - 1)

    def to_latent(self, z: Tensor) -> Tensor:
        """The same: they are scaled as the U-Net sees them already."""
        return z

    def from_latent(self, latent: Tensor) -> Tensor:
        """The same."""
        return latent
