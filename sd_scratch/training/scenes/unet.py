"""Trains the U-Net together with the text encoder, on latents of the trained autoencoder.

v-prediction (Salimans and Ho 2022, arXiv:2202.00512) with uniform weight: unlike the error of eps, it
also counts what the model says of the picture where there is almost only noise. One caption in ten
is empty, for classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598).
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.checkpoints import Components
from sd_scratch.checkpoints.build import seeded
from sd_scratch.checkpoints.save import save_folder
from sd_scratch.config import ModelConfig
from sd_scratch.diffusion.prediction import target
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.errors import log
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.networks.layers import prefer_convolutions
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.networks.unet import UNet
from sd_scratch.pictures.grid import save_grid
from sd_scratch.scenes import oracle
from sd_scratch.scenes.evaluate import make_checks, sample_prompts, score
from sd_scratch.text.tokenizer import Tokenizer
from sd_scratch.training.scenes.latents import Latents
from sd_scratch.training.settings import TrainConfig
from sd_scratch.training.task import Shuffle, Task
from sd_scratch.training.team import Team

UNET_TRAINING = TrainConfig(batch=64, lr=1e-3, ema_decay=0.999, look_seconds=600.0)
P_EMPTY = 0.1
NOISY_POWER = 0.65  # 1 would draw all timesteps equally often
DATA_SEED = 2
LOOK_COUNT = 100
TEXT_INIT_STD = 0.02
SHARD_BYTES = 15 << 20


class TextAndUNet(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.text = TextEncoder(config.text)
        self.unet = UNet(config.unet)
        # PyTorch's unit variance for embeddings would drown what the layers add to them.
        nn.init.normal_(self.text.embeddings.token_embedding.weight, std=TEXT_INIT_STD)
        nn.init.normal_(self.text.embeddings.position_embedding.weight, std=TEXT_INIT_STD)
        nn.init.zeros_(self.unet.conv_out.weight)

    def forward(self, x_t: Tensor, t: Tensor, token_ids: Tensor) -> Tensor:
        """The U-Net's prediction ``[B, 4, h, w]``, told by the text encoder."""
        prediction: Tensor = self.unet(x_t, t.float(), self.text(token_ids))
        return prediction


def draw_timesteps(count: int, T: int, generator: torch.Generator) -> Tensor:
    """Timesteps in 0..T-1, noisy ones more often: density (t / T)^0.54 / 0.65.

    On latents this small there is noise enough by the middle of the schedule to hide a shape: what the
    caption says of it lowers the loss eight times as much at t = 750 as at t = 50.
    """
    u = torch.rand(count, generator=generator)
    return (T * u**NOISY_POWER).long().clamp(max=T - 1)


class UNetTask(Task):
    """Learns to denoise the latents of scenes, given their captions; begins with the weights of
    `init`, if any."""

    result = "model"

    def __init__(
        self,
        config: ModelConfig,
        train: TrainConfig,
        folder: Path,
        vae: Autoencoder,
        tokenizer: Tokenizer,
        latents: Latents,
        team: Team | None = None,
        init: Components | None = None,
        *,
        crowded: bool = False,
    ) -> None:
        """`crowded`: the latents are of `crowded_scene`s."""
        self.networks = seeded(lambda: TextAndUNet(config), train.seed)
        if init is not None:
            self.networks.text.load_state_dict(init.text.state_dict())
            self.networks.unet.load_state_dict(init.unet.state_dict())
        super().__init__(self.networks, train, team)
        self.config, self.folder, self.crowded = config, folder, crowded
        self.vae, self.tokenizer, self.latents = vae, tokenizer, latents
        self.schedule = Schedule(config.schedule)
        self.empty = torch.tensor(tokenizer.encode("").ids)
        self.shuffle = Shuffle(len(latents), train.batch, train.seed, "the scenes")
        self.per_epoch = self.shuffle.per_epoch

    def settings(self) -> dict[str, Any]:
        return {
            **({"crowded": True} if self.crowded else {}),
            "unet": asdict(self.config.unet),
            "text": asdict(self.config.text),
            "schedule": asdict(self.config.schedule),
            "scaling_factor": self.config.vae.scaling_factor,
            "scenes": len(self.latents),
            "p_empty": P_EMPTY,
        }

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The mean squared error of v."""
        x0, token_ids = self.batch(step, generator)
        t = draw_timesteps(len(x0), len(self.schedule), generator)
        noise = torch.randn(x0.shape, generator=generator)
        x_t = self.schedule.add_noise(x0, noise, t)
        goal = target(x0, noise, self.schedule.alpha_bar[t], self.config.schedule.prediction_type)
        x_t, t, token_ids, goal = (self.team.share(x) for x in (x_t, t, token_ids, goal))
        loss = F.mse_loss(self.parallel(x_t, t, token_ids), goal)
        return loss, {"loss": self.team.mean(loss)}

    def batch(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents with unit variance, and token ids. Every epoch has an order of its own, and takes
        the next of each scene's captions."""
        rows, epoch = self.shuffle.rows(step), step // self.shuffle.per_epoch
        mean, std = self.latents.mean[rows].float(), self.latents.std[rows].float()
        z = mean + std * torch.randn(mean.shape, generator=generator)
        token_ids = self.latents.token_ids[rows, epoch % self.latents.token_ids.shape[1]].long()
        dropped = torch.rand(len(rows), generator=generator) < P_EMPTY
        token_ids = torch.where(dropped[:, None], self.empty, token_ids)
        return z * self.config.vae.scaling_factor, token_ids

    def components(self, model: nn.Module) -> Components:
        """What makes pictures, from the (averaged) networks of a training run."""
        assert isinstance(model, TextAndUNet)
        return Components(self.config, model.text, self.vae, model.unet, self.tokenizer, "training")

    def export(self, model: nn.Module, folder: Path, step: int, seconds: float) -> None:
        save_scenes(self.components(model), folder)

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        checks = make_checks(LOOK_COUNT)
        prompts = [check.prompt for check in checks]
        images = sample_prompts(self.components(model), prompts, range(len(checks)))
        prefer_convolutions(model, None)
        save_grid(images, self.folder / f"samples-{step:07d}.png")
        figures = score(checks, oracle.read(images))
        return {f"{part}: {name}": share for (part, name), (share, _) in figures.items()}


def save_scenes(components: Components, folder: Path) -> None:
    """Write a model in half precision, in files that travel anywhere."""
    save_folder(components, folder, torch.float16, shard_bytes=SHARD_BYTES, overwrite=True)
    log.info("model written to %s", folder)
