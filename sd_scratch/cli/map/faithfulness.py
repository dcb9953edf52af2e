"""``sd-scratch map faithfulness``: which maps tell the truth, measured on scenes."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sd_scratch.cli.map.options import add_model
from sd_scratch.cli.options import integer, number, seed
from sd_scratch.errors import UsageError
from sd_scratch.limits import GUIDANCE, SEED, STEPS

if TYPE_CHECKING:
    from PIL import Image

    from sd_scratch.cli.map.results import Results
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.faithfulness import Measured

HELP = "which of the maps tell the truth: all of them against masks, swapped words and derivatives"
SCENES, CHECKS = 200, 20
QUICK_SCENES, QUICK_CHECKS = 8, 1
BATCH = 32
STATE = "state.json"
STATE_LIMIT = 1 << 30  # bytes
EXAMPLES = 3
SHOWN = (
    "attention",
    "attention 8x8",
    "perturbation",
    "central difference",
    "exact derivative",
    "word swapped",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scenes", type=integer(2, 100_000), metavar="N", help=f"how many (default: {SCENES})"
    )
    parser.add_argument(
        "--checks",
        type=integer(0, 100_000),
        metavar="N",
        help="of them also with cut attention, an untrained U-Net and other samplers (default: "
        f"{CHECKS})",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_SCENES} scenes and {QUICK_CHECKS} checked, to see what it does",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on in the folder of -o; nothing is made twice"
    )
    run = parser.add_argument_group("run (default: the model's own)")
    run.add_argument("-s", "--seed", type=seed, default=0, help="of the first scene's noise (0)")
    run.add_argument("--steps", type=integer(*STEPS), help="1 to 1000")
    run.add_argument(
        "--cfg-scale",
        "--guidance-scale",
        type=number(*GUIDANCE),
        metavar="SCALE",
        help="classifier-free guidance: 1 for none",
    )
    run.add_argument("--sampler", metavar="NAME", help="ddim, pndm, lms, ...")
    run.add_argument(
        "--batch-size", type=integer(1, 256), help=f"pictures at a time (default: {BATCH})"
    )
    add_model(parser)


def run(args: argparse.Namespace) -> None:
    from sd_scratch.cli.console import progress_bar
    from sd_scratch.cli.map.results import Results
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.faithfulness import Batches, count_pictures, examine, make_cases
    from sd_scratch.mapping.faithfulness.run import parts

    scenes = args.scenes or (QUICK_SCENES if args.quick else SCENES)
    checks = (QUICK_CHECKS if args.quick else CHECKS) if args.checks is None else args.checks
    if args.resume and args.output is None:
        raise UsageError("--resume needs a folder of its own - name it with -o")
    cases = make_cases(scenes, args.seed if args.seed >= 0 else 0)
    args.prompt = cases[0].prompt
    session = Session(args)
    session.require_full_precision()
    if (session.recipe.seed or 0) + scenes - 1 > SEED[1]:
        raise UsageError("the last scene's seed would exceed 2^64-1 - choose a smaller one")  # fmt: skip
    cases = make_cases(scenes, session.recipe.seed or 0)
    for case in cases:
        prompt = session.read(case.prompt)
        for target in case.targets:
            case.word(prompt, target)
    results = Results(args.output, "faithfulness", overwrite=args.overwrite or args.resume)
    mark = fingerprint(session, checks)
    state = read_state(results.folder / STATE, mark) if args.resume else empty_state(mark)
    for name in ("examples.png", "examples.safetensors"):
        if state["scenes"]:
            results.files.append(name)

    missing = [case for case in cases if case.index not in set(state["scenes"])]
    sampler = str(session.recipe.sampler)
    with progress_bar(count_pictures(missing, checks, sampler), "pictures") as bar:
        size = args.batch_size or BATCH
        batches = Batches(session.model, session.settings, size, bar.update)
        weights = session.recipe.model_hash or ""
        if state["scenes"] and state["weights"] != weights:
            raise UsageError(f"{results.folder} was made with other weights - take another folder")
        state["weights"] = weights
        for some, part in zip(parts(missing), examine(batches, missing, checks), strict=True):
            if not state["scenes"]:
                save_examples(results, part.measured)
            state["scenes"] += [case.index for case in some]
            state["rows"] += part.rows
            state["checks"] += part.checks
            results.keep(STATE, json.dumps(state).encode())
    save(results, session, state, scenes, checks)


def fingerprint(session: "Session", checks: int) -> str:
    """All that a scene's rows depend on."""
    known = {k: v for k, v in session.recipe.known.items() if k != "prompt"}
    return json.dumps({**known, "checks": checks}, sort_keys=True)


def empty_state(mark: str) -> dict[str, Any]:
    return {"settings": mark, "weights": "", "scenes": [], "rows": [], "checks": []}


def read_state(path: Path, mark: str) -> dict[str, Any]:
    """What an earlier run left. Raises ScratchError (bad usage) where it had other settings, or the
    file is damaged."""
    from sd_scratch.json_file import read_json

    if not path.is_file():
        return empty_state(mark)
    state = read_json(path, STATE_LIMIT)
    if set(state) != set(empty_state(mark)) or state["settings"] != mark:
        raise UsageError(
            f"{path} was made with other settings - use those of the run that is to go on, or "
            "another folder",
        )
    return state


def save(
    results: "Results", session: "Session", state: dict[str, Any], scenes: int, checks: int
) -> None:
    from sd_scratch.mapping.faithfulness import (
        differences_against_exact,
        summarise,
        summarise_checks,
        table,
    )
    from sd_scratch.mapping.faithfulness.scores import COLUMNS

    rows = [row for row in state["rows"] if row["scene"] < scenes]
    checked = state["checks"]
    figures, of_checks = summarise(rows), summarise_checks(checked)
    results.table("scenes.csv", COLUMNS, [[cell(row[name]) for name in COLUMNS] for row in rows])
    if checked:
        columns = list(dict.fromkeys(name for row in checked for name in row))
        lines = [[cell(row.get(name)) for name in columns] for row in checked]
        results.table("checks.csv", columns, lines)
    header = ("kind", "map", "metric", "scenes", "mean", "low", "high")
    summary = [[cell(getattr(f, name)) for name in header] for f in (*figures, *of_checks)]
    results.table("summary.csv", header, summary)

    for kind in dict.fromkeys(row["kind"] for row in rows):
        words = [row["there"] for row in rows if row["kind"] == kind and row["map"] == "uniform"]
        means = {f.metric: f.mean for f in figures if f.kind == kind and f.map == "uniform"}
        chance = ""
        if means.get("area"):
            margin = f"{means['chance within a cell']:.1%} with a cell's margin"
            chance = f" and cover {means['area']:.1%} of it, {margin}: that is chance"
        there = f"{sum(words)} are in the picture{chance}"
        print(f"\n{kind}: {len(words)} words, {there}\n\n{table(figures, kind)}")
    if checked:
        metrics = dict.fromkeys(f.metric for f in of_checks)
        print(f"\nchecks, on the nouns of {len({row['scene'] for row in checked})} scenes\n")
        print(table(of_checks, "noun", {name: name for name in metrics}))
    print("\nagainst the exact derivative\n")
    print("\n".join(differences_against_exact(rows)) + "\n")
    known = {"prompt": "one for each scene, in scenes.csv", "scenes": scenes, "checks": checks}
    results.settings(session.recipe, **known)


def cell(value: Any) -> Any:
    """A value as a CSV file has it: nothing for what is undefined."""
    return "" if value is None else int(value) if isinstance(value, bool) else value


def save_examples(results: "Results", measured: "list[Measured]") -> None:
    """A figure of some scenes that show what was asked for, and the raw maps."""
    whole = [one for one in measured if one.masks.of(one.case.targets[0].slot) is not None]
    shown = sorted(whole, key=lambda one: -len(one.case.scene.objects))[:EXAMPLES] or measured[:1]
    results.picture("examples.png", examples(shown))
    raw = {}
    for one in shown:
        raw[f"{one.case.index}.picture"] = one.picture
        for target, maps in zip(one.case.targets, one.maps, strict=True):
            for name, values in maps.items():
                raw[f"{one.case.index}.{target.text}-{target.nth}.{name}"] = values
    results.tensors("examples.safetensors", raw)


def examples(shown: "list[Measured]") -> "Image.Image":
    """A row a scene: the picture, the mask of the noun's object, and the noun's maps."""
    from sd_scratch.mapping.drawing import Cell, grey_map, picture, sheet
    from sd_scratch.mapping.faithfulness.maps import pixels
    from sd_scratch.mapping.maps import Map

    rows, notes = [], []
    for one in shown:
        target, maps = one.case.targets[0], one.maps[0]
        size = (one.picture.shape[-1], one.picture.shape[-2])

        def grey(values: Any, caption: str, size: tuple[int, int] = size) -> Cell:
            top = float(values.max())
            return Cell(grey_map(Map(values, size, "", "", ""), top), f"{caption}, to {top:.2g}")

        mask = one.masks.of(target.slot)
        cells = [Cell(picture(pixels(one.picture)), "the picture")]
        if mask is not None:
            cells.append(Cell(grey_map(Map(mask.float(), size, "", "", ""), 1.0), "its mask"))
        cells += [grey(maps[name], name) for name in SHOWN if name in maps]
        rows.append(cells)
        notes.append(f"{target.text}: {one.case.prompt}")
    notes.append(
        "Every map from black, 0, to white, its own largest value, which is written under it. "
        "Attention in shares, perturbation in grey levels, differences and derivatives in colours "
        "per length of the word's vectors, the swapped word in colours."
    )
    labels = [one.case.targets[0].text for one in shown]
    return sheet("A noun, where it is, and its maps", rows, notes=notes, row_labels=labels)
