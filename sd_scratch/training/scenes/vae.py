"""Trains the autoencoder on rendered scenes: reconstruction, and a little KL.

Kingma and Welling 2013 (arXiv:1312.6114) with Rombach et al. 2022's small weight on the KL term. The
posterior starts narrow (`start_narrow`): from a standard deviation of 1 the noise drowns the latent
before the decoder has learnt to read it, and the posterior collapses.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sd_scratch.checkpoints import Components
from sd_scratch.checkpoints.build import seeded
from sd_scratch.config import ModelConfig
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.pictures.grid import save_grid
from sd_scratch.scenes import oracle
from sd_scratch.scenes.evaluate import make_checks, reconstruct, score
from sd_scratch.scenes.graph import crowded_scene, sample_scene
from sd_scratch.scenes.render import render
from sd_scratch.training.settings import TrainConfig
from sd_scratch.training.task import Task
from sd_scratch.training.team import Team

VAE_TRAINING = TrainConfig(batch=8, lr=6e-4, ema_decay=0.998)
KL_WEIGHT = 1e-3  # against a reconstruction error that is summed over the picture
DATA_SEED = 1
CHECK_COUNT = 200
LOGVAR_START = -5.0


class VaeTask(Task):
    """Learns to reconstruct fresh scenes and sees every picture once; begins with the weights of
    `init`, if any.

    With `decoder_only` the encoder stays as it is, and so do the latents that a U-Net has learnt to
    draw. `crowded` chooses scenes of several objects (`crowded_scene`).
    """

    def __init__(
        self,
        config: ModelConfig,
        train: TrainConfig,
        folder: Path,
        team: Team | None = None,
        init: Components | None = None,
        *,
        decoder_only: bool = False,
        crowded: bool = False,
    ) -> None:
        vae = seeded(lambda: Autoencoder(config.vae), train.seed)
        start_narrow(vae)
        if init is not None:
            vae.load_state_dict(init.vae.state_dict())
        if decoder_only:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        super().__init__(vae, train, team, called=_ThereAndBack(vae))
        self.config, self.folder = config, folder
        self.decoder_only, self.crowded = decoder_only, crowded

    def settings(self) -> dict[str, Any]:
        vae = asdict(self.config.vae)
        del vae["scaling_factor"]  # measured when the training is over
        chosen = {"decoder_only": self.decoder_only, "crowded": self.crowded}
        fixed = {"vae": vae, "side": self.config.sample_size, "kl_weight": KL_WEIGHT}
        return fixed | {name: value for name, value in chosen.items() if value}

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """|d| + d^2 for the difference d of each pixel, plus KL, both as means over the pixels."""
        side, cells = self.config.sample_size, self.config.sample_size // self.config.vae.downscale
        numbers = torch.arange(step * self.train.batch, (step + 1) * self.train.batch)
        noise = torch.randn(
            self.train.batch, self.config.vae.latent_channels, cells, cells, generator=generator
        )
        numbers, noise = self.team.share(numbers), self.team.share(noise)
        draw = crowded_scene if self.crowded else sample_scene
        images = render([draw(DATA_SEED, i) for i in numbers.tolist()], side).images
        images = images.contiguous(memory_format=torch.channels_last)
        again, kl = self.parallel(images, noise)
        squared = (again - images).square().mean()
        loss = (again - images).abs().mean() + squared + KL_WEIGHT * kl / images[0].numel()
        figures = {"loss": loss, "psnr": psnr(squared), "kl": kl}
        return loss, {name: self.team.mean(value) for name, value in figures.items()}

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(model, Autoencoder)
        figures, again = check_reconstructions(model, self.config.sample_size, CHECK_COUNT)
        save_grid(again[:64], self.folder / f"reconstructions-{step:07d}.png")
        return figures


class _ThereAndBack(nn.Module):
    """Encoder and decoder as one call."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The pictures again, decoded from a draw of their posteriors, and the posteriors' mean KL."""
        posterior = self.vae.encode(images)
        return self.vae.decode(posterior.sample(noise)), posterior.kl().mean()


def start_narrow(vae: Autoencoder) -> None:
    """Let the posterior start with a small standard deviation that hardly depends on the picture."""
    half = vae.config.latent_channels
    with torch.no_grad():
        vae.quant_conv.weight[half:] *= 0.1
        assert vae.quant_conv.bias is not None
        vae.quant_conv.bias[half:] = LOGVAR_START


def psnr(mean_square: Tensor) -> Tensor:
    """Decibels for a mean squared error of values in -1..1."""
    return 10 * torch.log10(4 / mean_square.clamp(min=1e-12))


def check_reconstructions(
    vae: Autoencoder, side: int, count: int
) -> tuple[dict[str, float], Tensor]:
    """The oracle's scores and the PSNR of reconstructions of unseen scenes, and these
    reconstructions ``[N, 3, side, side]``."""
    checks = make_checks(count)
    images = render([check.scene for check in checks], side).images
    again = reconstruct(vae, images)
    figures = score(checks, oracle.read(again))
    shares = {f"{part}: {name}": share for (part, name), (share, _) in figures.items()}
    return shares | {"check psnr": float(psnr((again - images).square().mean()))}, again


@torch.no_grad()
def measure_scale(vae: Autoencoder, side: int, count: int = 2000, batch: int = 50) -> float:
    """1 / std of the latents, so that the U-Net sees unit variance (Rombach et al. 2022, appendix
    G)."""
    total, squares, values = 0.0, 0.0, 0
    for first in range(0, count, batch):
        scenes = [sample_scene(DATA_SEED, i) for i in range(first, first + batch)]
        mean = vae.encode(render(scenes, side).images).mean.double()
        total, squares = total + float(mean.sum()), squares + float(mean.square().sum())
        values += mean.numel()
    return 1 / math.sqrt(squares / values - (total / values) ** 2)
