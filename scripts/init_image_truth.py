#!/usr/bin/env python3
"""Does image to image do what it is told? On `scenes`, where the oracle reads pictures back.

    .venv/bin/python scripts/init_image_truth.py [COUNT] [STRENGTH] [STEPS]

Draws scenes of one object, asks for the same with another colour, from the drawn picture, and counts in how many the
object is still in its place (within 0.1 of the width) and has the new colour.
"""

import sys
from dataclasses import replace

from sd_scratch.pipeline.load import load
from sd_scratch.scenes import oracle
from sd_scratch.scenes.captions import full_caption
from sd_scratch.scenes.graph import COLOURS, sample_scene
from sd_scratch.scenes.render import render

SEED = 950  # of scenes that no training sees


def main(count: int = 100, strength: float = 0.6, steps: int | None = None) -> None:
    model = load("scenes", device="cpu")
    scenes = [s for s in (sample_scene(SEED, i) for i in range(10 * count)) if len(s.objects) == 1]
    place = colour = 0
    for i, scene in enumerate(scenes[:count]):
        (item,) = scene.objects
        others = [c for c in COLOURS if c not in (item.colour, scene.background)]
        asked = replace(item, colour=others[i % len(others)])
        latent = model.vae.to_latent(
            model.vae.encode(render([scene], model.config.sample_size).images).mean
        )
        start = model.begin(model.noise(i).with_latent(latent.float(), t=0), strength, steps=steps)
        caption = full_caption(replace(scene, objects=(asked,)))
        made = model.generate(caption, start, steps=steps)
        found = oracle.read(made.decode())[0].objects
        near = [o for o in found if abs(o.x - item.x) < 0.1 and abs(o.y - item.y) < 0.1]
        place += bool(near)
        colour += any(o.colour == asked.colour for o in found)
    print(
        f"strength {strength:g}, {min(count, len(scenes))} scenes: place kept in {place}, new colour in {colour}"
    )


if __name__ == "__main__":
    main(*(kind(value) for kind, value in zip((int, float, int), sys.argv[1:], strict=False)))
