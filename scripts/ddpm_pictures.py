"""The pictures of docs/ddpm.md, from a trained model of pixels.

    python scripts/ddpm_pictures.py MODEL FOLDER [--film]

grid.png: classes across; two rows each at guidance scale 1, 1.5 and 3, which are the weights 0, 0.5 and 2
of Ho and Salimans, always from the same noise. path.png: what comes about, from top to bottom.
path.gif, with --film: the same as a film.
"""

import argparse
from pathlib import Path

import torch

from sd_scratch.pictures.film import save_film
from sd_scratch.pictures.grid import save_grid
from sd_scratch.pipeline.pixel_diffusion import load_pixels

SCALES, ROWS = (1.0, 1.5, 3.0), 2
STEPS, STAGES = 50, (0, 10, 20, 27, 34, 41, 49)
FRAME_EVERY = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--film", action="store_true")
    args = parser.parse_args()
    model = load_pixels(args.model)
    columns = model.no_class
    classes = list(range(columns)) * ROWS

    sheet = [
        model.generate(classes, range(len(classes)), sampler="ddim", steps=STEPS, guidance=scale)
        for scale in SCALES
    ]
    save_grid(torch.cat(sheet), args.folder / "grid.png", columns)

    run = model.steps(range(columns), range(columns), sampler="ddim", steps=STEPS)
    stages = [model.to_picture(step.x_next) for step in run]
    save_grid(torch.cat([stages[i] for i in STAGES]), args.folder / "path.png", columns)
    if args.film:
        save_film(stages[::-FRAME_EVERY][::-1], args.folder / "path.gif", columns)


if __name__ == "__main__":
    main()
