#!/usr/bin/env python3
"""Does inpainting paint what was asked for, and nothing else? On `scenes`, where the oracle reads pictures back.

    .venv/bin/python scripts/inpaint_truth.py [COUNT] [BLEND ...] [--no-place] [--only-masked PIXELS]

Draws scenes of one object, masks a box around the object, asks for the same scene with an object of another
shape and colour, and counts in how many the oracle reads that colour, that shape, and both and nothing else;
and the pixels beyond the feather that are not the old picture's. What is new can only be under the mask. The prompt
names the place of the mask ("at the top"), unless it is told not to: a network that knows nothing of masks else
begins to draw the object elsewhere, and only what reaches into the mask is seen. Told to, it paints on the masked
part alone.
"""

import argparse
import math
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from sd_scratch.pictures.pixels import to_bytes
from sd_scratch.pipeline.load import load
from sd_scratch.pipeline.mask_use import BLENDS, FEATHER, MaskUse
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.scenes import oracle
from sd_scratch.scenes.captions import full_caption
from sd_scratch.scenes.graph import COLOURS, SHAPES, WIDEST, SceneObject, sample_scene
from sd_scratch.scenes.render import render

SEED = 951  # of scenes that no training sees


def main(count: int, blends: list[str], *, place: bool, padding: int | None) -> None:
    torch.set_num_threads(1)
    model = load("scenes", device="cpu")
    drawn_scenes = [sample_scene(SEED, i) for i in range(10 * count)]
    scenes = [scene for scene in drawn_scenes if len(scene.objects) == 1][:count]
    side = model.config.sample_size
    for blend in blends:
        totals = dict.fromkeys(("colour", "shape", "both, alone"), 0)
        changed = 0
        for i, scene in enumerate(scenes):
            (item,) = scene.objects
            others = [c for c in COLOURS if c not in (item.colour, scene.background)]
            shapes = [s for s in SHAPES if s != item.shape]
            asked = replace(item, colour=others[i % len(others)], shape=shapes[i % len(shapes)])
            white = mask_around(item, side, model.config.vae.downscale)
            drawn = to_bytes(render([scene], side).images[0] * 0.5 + 0.5).permute(1, 2, 0).numpy()
            text = full_caption(replace(scene, objects=(asked,)), place=place)
            recipe = Recipe(text, seed=i, mask=MaskUse(blend=blend, padding=padding))
            (made,) = model.run(recipe, init_image=Image.fromarray(drawn), mask=white)
            new = np.array(made.to_pil()[0])
            far = ~grown(white, FEATHER)
            changed += int((new != drawn).any(axis=2)[far].sum())
            pixels = torch.from_numpy(new).permute(2, 0, 1)[None] / 127.5 - 1
            found = oracle.read(pixels)[0].objects
            totals["colour"] += any(o.colour == asked.colour for o in found)
            totals["shape"] += any(o.shape == asked.shape for o in found)
            both = (asked.colour, asked.shape)
            totals["both, alone"] += [(o.colour, o.shape) for o in found] == [both]
        words = ", ".join(f"{name} in {n}" for name, n in totals.items())
        print(f"{blend}, {len(scenes)} scenes: {words}; {changed} pixels changed", flush=True)


def mask_around(item: SceneObject, side: int, cell: int) -> np.ndarray:
    """A box that the object and its outline lie in, of whole cells of the latent: with eight pixels of 64 a cell,
    a part of one is much of the picture."""
    half = WIDEST * item.radius + 0.02
    white = np.zeros((side, side), dtype=bool)
    (top, bottom), (left, right) = (
        (math.floor((at - half) * side / cell), math.ceil((at + half) * side / cell))
        for at in (item.y, item.x)
    )
    white[max(top, 0) * cell : bottom * cell, max(left, 0) * cell : right * cell] = True
    return white


def grown(white: np.ndarray, by: int) -> np.ndarray:
    """A square's pixels and all that lie within `by` of them."""
    rows, columns = (np.flatnonzero(white.any(axis=axis)) for axis in (1, 0))
    larger = np.zeros_like(white)
    larger[
        max(rows[0] - by, 0) : rows[-1] + by + 1, max(columns[0] - by, 0) : columns[-1] + by + 1
    ] = True
    return larger


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", nargs="?", type=int, default=100)
    parser.add_argument("blends", nargs="*", default=[b for b in BLENDS if b != "none"])
    parser.add_argument("--no-place", action="store_true")
    parser.add_argument("--only-masked", type=int, metavar="PIXELS")
    args = parser.parse_args()
    main(args.count, args.blends, place=not args.no_place, padding=args.only_masked)
