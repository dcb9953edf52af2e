"""Guesses of the noise, scored by timestep: nothing, chance, the truth, and the shipped model."""

import torch
from torch import Tensor

from sd_scratch.diffusion.prediction import interpret
from sd_scratch.pipeline.load import load
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.scenes.captions import full_caption
from sd_scratch.scenes.graph import sample_scene
from sd_scratch.scenes.render import render
from sd_scratch.teaching.plot import curves
from sd_scratch.teaching.table import Table

CHECK_SEED = 900  # of scenes that no training sees
SCENES = 24
BINS = 10


def evaluate(model: StableDiffusion | None = None) -> Table:
    """The mean squared error against the true noise, for timesteps in ten ranges.

    Every guess is scored on the same noisy latents, and the truth is kept with each of them, so that its
    error is 0 by construction.
    """
    model = model or load()
    scenes = [sample_scene(CHECK_SEED, i) for i in range(SCENES)]
    pictures = render(scenes, model.config.sample_size).images
    prompts = [model.prompt(full_caption(scene)) for scene in scenes]
    generator = torch.Generator().manual_seed(0)
    width = len(model.schedule) // BINS
    rows, middles = [], []
    with torch.no_grad():
        z = model.vae.to_latent(
            model.vae.encode(pictures.to(model.device, model.dtype)).mean
        ).float()
        z, context = z.cpu(), torch.cat([prompt.context for prompt in prompts])
        for first in range(0, BINS * width, width):
            t = torch.randint(first, first + width, (SCENES,), generator=generator)
            eps = torch.randn(z.shape, generator=generator)
            x_t = model.schedule.add_noise(z, eps, t)
            guesses = {
                "zero": torch.zeros_like(eps),
                "random": torch.randn(z.shape, generator=generator),
                "truth": eps,
                "model": _ask(model, x_t, t, context),
            }
            rows.append(
                (
                    f"{first}-{first + width - 1}",
                    *(float((g - eps).square().mean()) for g in guesses.values()),
                )
            )
            middles.append(first + width / 2)
    lines = {name: [float(str(row[i + 1])) for row in rows] for i, name in enumerate(guesses)}
    return Table(
        ("t", *guesses),
        tuple(rows),
        (
            "noise has variance 1 at every timestep, so that 'zero' is off by 1 and 'random' by 2 everywhere",
            f"the model is off by {lines['model'][0]:.2f} where there is little noise to see, and by"
            f" {lines['model'][-1]:.3f} where there is nothing else",
        ),
        curves(middles, lines, "timestep", "mean squared error"),
    )


def _ask(model: StableDiffusion, x_t: Tensor, t: Tensor, context: Tensor) -> Tensor:
    raw = (
        model.unet(x_t.to(model.device, model.dtype), t.float().to(model.device), context)
        .float()
        .cpu()
    )
    kind = model.config.schedule.prediction_type
    return interpret(raw, x_t, model.schedule.alpha_bar[t], kind).eps
