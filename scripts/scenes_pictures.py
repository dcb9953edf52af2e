"""The pictures of docs/scenes.md, from a trained model of scenes, and its table of guidance scales.

    python scripts/scenes_pictures.py MODEL FOLDER [--table]

samples.png, unseen.png and beyond.png: a prompt a row, eight seeds across. guidance.png: a prompt a row,
a guidance scale a column. rendered.png: what such a model is trained on. The table, with --table: 150
prompts, one seed each, at every scale (minutes).
"""

import argparse
from pathlib import Path

import torch

from sd_scratch.checkpoints import Components, load_components
from sd_scratch.pictures.grid import save_grid
from sd_scratch.scenes.evaluate import evaluate_scenes, sample_prompts
from sd_scratch.scenes.graph import sample_scene
from sd_scratch.scenes.render import render
from sd_scratch.training.scenes.unet import DATA_SEED

SEEDS = 8
RENDERED = 32
SCALES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
TABLE_COUNT = 150

SHEETS = {
    "samples": (
        "a large red heart on a blue background",
        "a small cyan ring in the top left on a purple background",
        "a small green star to the left of a large red circle on a white background",
        "a medium yellow triangle above a medium pink heart on a black background",
        "three small blue hearts on a yellow background",
        "four small white triangles on a red background",
        "a small orange circle, a small blue cross and a small pink triangle on a green background",
    ),
    "unseen": (
        "a large green diamond on a black background",
        "a large blue ring on a white background",
        "a large yellow ring on a black background",
        "a large orange diamond on a white background",
        "a large purple diamond on a white background",
        "a large white diamond on a black background",
    ),
    "beyond": (
        "a medium star",
        "five red circles on a white background",
        "a red circle inside a blue square",
        "a photograph of an astronaut",
        "a large blue square to the left of a large yellow square on a red background",
        "a white background",
    ),
}
GUIDED = (
    "a medium yellow heart on a black background",
    "a small pink triangle to the left of a small green star on a white background",
    "three small red triangles on a cyan background",
    "a small purple ring above a small white diamond on an orange background",
)
GUIDED_SEED = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    model = load_components(args.model)

    for name, prompts in SHEETS.items():
        every = [prompt for prompt in prompts for _ in range(SEEDS)]
        seeds = list(range(SEEDS)) * len(prompts)
        save_grid(sample_prompts(model, every, seeds), args.folder / f"{name}.png", SEEDS)

    seeds = [GUIDED_SEED] * len(GUIDED)
    columns = [sample_prompts(model, GUIDED, seeds, guidance=scale) for scale in SCALES]
    rows = torch.stack(columns, dim=1).flatten(0, 1)
    save_grid(rows, args.folder / "guidance.png", len(SCALES))

    scenes = [sample_scene(DATA_SEED, i) for i in range(RENDERED)]
    images = render(scenes, model.config.sample_size).images
    save_grid(images, args.folder / "rendered.png", SEEDS)
    if args.table:
        print_table(model)


def print_table(model: Components) -> None:
    columns = []
    for scale in SCALES:
        rows = evaluate_scenes(model, count=TABLE_COUNT, seeds=1, guidance=scale)
        columns.append({(row.part, row.attribute): f"{row.generated:.0%}" for row in rows})
    print("| | " + " | ".join(f"{scale:g}" for scale in SCALES) + " |")
    print("|---" * (len(SCALES) + 1) + "|")
    for part, attribute in columns[0]:
        cells = [column[part, attribute] for column in columns]
        print(f"| {part}: {attribute} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
