"""Trains a denoiser of pixels: guess the noise that was added, or the velocity.

Ho et al. 2020 (arXiv:2006.11239), equation 14: for a picture x0, a timestep t and noise eps,

    x_t  = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps
    loss = | target - network(x_t, t, class) |^2

where the target is eps, or v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x0 (Salimans and Ho 2022,
arXiv:2202.00512). One picture in ten goes without its class, so that the same network also knows what
pictures look like in general (Ho and Salimans 2022, arXiv:2207.12598).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.checkpoints.pixel_model import Denoiser, PixelComponents, build_denoiser
from sd_scratch.diffusion.prediction import target
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.pictures.film import save_film
from sd_scratch.pictures.grid import save_grid
from sd_scratch.pipeline.pixel_diffusion import PixelDiffusion
from sd_scratch.training.pixels.batches import Batches, mirror_half
from sd_scratch.training.pixels.card import write_model
from sd_scratch.training.pixels.images import DataSet, to_pixels
from sd_scratch.training.pixels.presets import PixelPreset
from sd_scratch.training.task import Task
from sd_scratch.training.team import Team

CHECK_SEED, CHECK_COUNT = 900, 256
LOOK_GUIDANCE = (1.0, 1.5, 3.0)
"""Weights 0, 0.5 and 2 as Ho and Salimans count them: the scale is one more."""
LOOK_STEPS, LOOK_ROWS, LOOK_COLUMNS = 25, 2, 10


class DdpmTask(Task):
    """Learns to denoise the pictures of a data set, given their classes.

    The network computes in `dtype`, by default bfloat16 on GPUs that have it, else float32. Its
    weights and the loss are float32; bfloat16 has the same range, so nothing needs scaling.
    """

    result = "model"

    def __init__(
        self,
        preset: PixelPreset,
        data: DataSet,
        folder: Path,
        team: Team | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.preset, self.data, self.folder, self.config = preset, data, folder, preset.model
        self.schedule = Schedule(self.config.schedule)
        self.batches = Batches(data.train, preset.train.batch, preset.train.seed)
        self.per_epoch = self.batches.per_epoch
        super().__init__(build_denoiser(self.config, preset.train.seed), preset.train, team)
        on_gpu = self.team.device.type == "cuda" and torch.cuda.is_bf16_supported()
        self.dtype = dtype or (torch.bfloat16 if on_gpu else torch.float32)

    def settings(self) -> dict[str, Any]:
        return {
            "network": asdict(self.config.network),
            "schedule": asdict(self.config.schedule),
            "low": self.config.low,
            "first_timestep": self.config.first_timestep,
            "data": self.preset.data,
            "pictures": self.data.train.fingerprint,
            "classes": self.config.class_names,
            "p_no_class": self.preset.p_no_class,
            "flip": self.preset.flip,
        }

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The mean squared error over this process's share of batch number `step`."""
        x0, classes = self.batch(step, generator)
        t = torch.randint(
            self.config.first_timestep, len(self.schedule), (len(x0),), generator=generator
        )
        eps = torch.randn(x0.shape, generator=generator)
        x0, classes, t, eps = (self.team.share(x) for x in (x0, classes, t, eps))
        low = self.dtype != torch.float32
        precision = torch.autocast(self.team.device.type, self.dtype, enabled=low)
        with self._dropout_of(step), precision:
            loss = self.error(self.parallel, x0, classes, t, eps)
        return loss, {"loss": self.team.mean(loss)}

    def batch(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures as the network sees them, and their classes, some of which are replaced by
        "none"."""
        images, classes = self.batches(step)
        if self.preset.flip:
            images = mirror_half(images, generator)
        hidden = torch.rand(len(classes), generator=generator) < self.preset.p_no_class
        classes = classes.masked_fill(hidden, self.config.network.num_classes)
        return to_pixels(images, self.config.low), classes

    def error(
        self, model: nn.Module, x0: Tensor, classes: Tensor, t: Tensor, eps: Tensor
    ) -> Tensor:
        """The mean squared error of a prediction."""
        alpha_bar = self.schedule.alpha_bar.to(t.device)[t]
        x_t = self.schedule.add_noise(x0, eps, t)
        x_t = x_t.contiguous(memory_format=torch.channels_last)
        goal = target(x0, eps, alpha_bar, self.config.schedule.prediction_type)
        return F.mse_loss(model(x_t, t.float(), classes).float(), goal)

    def components(self, model: nn.Module) -> PixelComponents:
        """What makes pictures, from the (averaged) network of a training run."""
        assert isinstance(model, Denoiser)
        return PixelComponents(self.config, model, "training")

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        """The error on test pictures, and a sheet of samples: classes across, two rows for each
        guidance scale, always from the same noise. A film shows how they come about."""
        diffusion = PixelDiffusion(self.components(model))
        names = self.config.class_names[:LOOK_COLUMNS]
        classes = list(range(len(names))) * LOOK_ROWS
        seeds = range(len(classes))
        sheet, frames = [], []
        for scale in LOOK_GUIDANCE:
            made = diffusion.steps(classes, seeds, sampler="ddim", steps=LOOK_STEPS, guidance=scale)
            stages = [diffusion.to_picture(step.x_next) for step in made]
            sheet.append(stages[-1])
            frames = stages
        save_grid(torch.cat(sheet), self.folder / f"samples-{step:07d}.png", len(names))
        save_film(frames, self.folder / "reverse.gif", len(names))
        return {"check loss": self.check_loss(model)}

    def export(self, model: nn.Module, folder: Path, step: int, seconds: float) -> None:
        write_model(self.preset, model, folder, step, seconds)

    @torch.no_grad()
    def check_loss(self, model: nn.Module) -> float:
        """The error on fixed test pictures with fixed noise."""
        test = self.data.test.first(CHECK_COUNT)
        generator = torch.Generator().manual_seed(CHECK_SEED)
        x0 = to_pixels(test.images, self.config.low)
        first, last = self.config.first_timestep, len(self.schedule)
        t = torch.randint(first, last, (len(x0),), generator=generator)
        eps = torch.randn(x0.shape, generator=generator)
        tensors = (x.to(self.team.device) for x in (x0, test.labels, t, eps))
        return float(self.error(model, *tensors))

    @contextmanager
    def _dropout_of(self, step: int) -> Iterator[None]:
        """PyTorch's dropout draws from the global random state: seed it, and put it back."""
        if not getattr(self.config.network, "dropout", 0.0):
            yield
            return
        device = self.team.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed((self.preset.train.seed << 40) + (step << 8) + self.team.rank)
            yield
