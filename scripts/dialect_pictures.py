#!/usr/bin/env python3
"""The pictures of docs/dialects.md: what each of four conventions changes, all else equal, on `scenes`.

    .venv/bin/python scripts/dialect_pictures.py [FOLDER]

Writes noise.png, weights.png, sigmas.png and strength.png: three seeds a row, a convention a column.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

import sd_scratch as sd
from sd_scratch.pictures.grid import save_grid
from sd_scratch.pipeline.recipe import Recipe

SEEDS = (3, 5, 8)
STAR = Recipe("a medium yellow star on a blue background", steps=12, sampler="euler")
NOISE = [STAR.over(rng=source) for source in ("cpu", "nv")]
WEIGHTED = STAR.over(prompt="a red star and a (green:2.5) ring on a (white:0.2) background")
WEIGHTS = [WEIGHTED.over(emphasis=emphasis) for emphasis in ("a1111", "comfy", "none")]
COARSE = STAR.over(prompt="three small blue hearts on a yellow background", steps=5, sampler="dpm2")
SIGMAS = [COARSE.over(schedule=name) for name in ("discrete", "linspace+cut", "karras+all+cut")]
CHANGED = STAR.over(prompt="a medium red ring on a blue background", steps=6, strength=0.6)
STRENGTH = [CHANGED.over(strength_steps=tool) for tool in ("diffusers", "a1111", "comfy")]


def sheet(model: sd.StableDiffusion, recipes: Iterable[Recipe], begun: bool = False) -> Tensor:
    """``[rows * columns, 3, H, W]``: a seed a row."""
    columns = []
    for recipe in recipes:
        pictures = []
        for seed in SEEDS:
            start = None
            if begun:
                (first,) = model.run(STAR.over(seed=seed))
                start = first.latents
            (made,) = model.run(recipe.over(seed=seed), init_image=start)
            pictures.append(made.latents.decode()[0])
        columns.append(torch.stack(pictures))
    return torch.stack(columns, dim=1).flatten(0, 1)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/dialects")
    model = sd.load()
    sheets = {"noise": NOISE, "weights": WEIGHTS, "sigmas": SIGMAS, "strength": STRENGTH}
    for name, recipes in sheets.items():
        images = sheet(model, recipes, begun=name == "strength")
        save_grid(images, folder / f"{name}.png", columns=len(recipes))


if __name__ == "__main__":
    main()
