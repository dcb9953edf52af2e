#!/usr/bin/env python3
"""The numbers by which previews turn a latent into colours, fitted to a model's own autoencoder.

    .venv/bin/python scripts/preview_factors.py [MODEL] [COUNT]

COUNT scenes (512) are rendered and encoded; each cell of a latent, with a 1 beside it, is mapped to the mean colour
of its pixels by least squares. Prints the table for `sd_scratch/pipeline/preview.py`, and how much of the colours'
variance it explains on as many scenes that were not fitted.
"""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.checkpoints import Components, load_components
from sd_scratch.scenes.graph import sample_scene
from sd_scratch.scenes.render import render

FITTED, HELD_OUT = 11, 12  # seeds of scenes


def cells(model: Components, seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Latent cells ``[N, C + 1]``, the last column 1, and their colours ``[N, 3]`` in -1..1."""
    latents, colours = [], []
    for start in range(0, count, 32):
        scenes = [sample_scene(seed, i) for i in range(start, min(start + 32, count))]
        images = render(scenes, model.config.sample_size).images
        with torch.no_grad():
            latent = model.vae.to_latent(model.vae.encode(images).mean)
        latents.append(latent.movedim(1, -1).flatten(0, 2))
        small = F.avg_pool2d(images, model.config.vae.downscale)
        colours.append(small.movedim(1, -1).flatten(0, 2))
    x = torch.cat(latents).double()
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1), torch.cat(colours).double()


def main() -> None:
    model = load_components(sys.argv[1] if len(sys.argv) > 1 else "scenes")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 512
    x, y = cells(model, FITTED, count)
    weights = torch.linalg.lstsq(x, y).solution
    for row in weights.tolist():
        print("    (" + ", ".join(f"{value:.4f}" for value in row) + "),")
    x, y = cells(model, HELD_OUT, count)
    left = (y - x @ weights).square().sum() / (y - y.mean(0)).square().sum()
    print(f"explains {1 - float(left):.4f} of the colours' variance")


if __name__ == "__main__":
    main()
