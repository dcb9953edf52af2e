"""``sd-scratch train``: train a model from scratch, go on with a training, or score a trained one."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sd_scratch.cli import pixels
from sd_scratch.cli.console import progress_bar
from sd_scratch.cli.options import integer, number
from sd_scratch.errors import UsageError
from sd_scratch.training.pixels.datasets import DATA_SETS

if TYPE_CHECKING:
    from sd_scratch.scenes.evaluate import Row

PRESETS = ("scenes", *DATA_SETS)
STAGES = ("vae", "unet", "clip", "classifier")
RESULT = {"vae": "vae", "unet": "model", "clip": "scenes-clip", "classifier": "scenes-classifier"}
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("preset", choices=PRESETS, help="what to train")
    parser.add_argument(
        "--stage",
        choices=(*STAGES[:-1], *pixels.STAGES),
        help="which part: of scenes the vae, then the unet, and the clip pair that scores its pictures;"
        " of the others the ddpm (default); of all the classifier that judges the pictures",
    )
    parser.add_argument("-o", "--out", type=Path, help="folder for states, journal and model")
    parser.add_argument("--max-minutes", type=number(0.01, 1e6), help="training time")
    parser.add_argument("--max-steps", type=integer(1, 10**9), help="or at most that many steps")
    parser.add_argument("--resume", action="store_true", help="go on from the newest state")
    parser.add_argument(
        "--init", metavar="MODEL", help="scenes: begin with this model's weights, not from nothing"
    )
    parser.add_argument("-t", "--threads", type=integer(1, 1024), help="CPU threads")
    parser.add_argument(
        "--export", type=Path, metavar="FOLDER", help="write the newest states of --out as a model"
    )
    parser.add_argument(
        "--evaluate", metavar="MODEL", help="train nothing: score a model, by name or folder"
    )
    parser.add_argument(
        "--count",
        type=integer(1, 100_000),
        help="for --evaluate: prompts of scenes (500), else pictures (2000)",
    )
    parser.add_argument("--steps", type=integer(1, 1000), help="sampling steps (25, else 50)")
    parser.add_argument("--cfg-scale", type=number(0, 30), help="guidance (default: the model's)")
    pixels.add_train_arguments(parser)


def run(args: argparse.Namespace) -> int:
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.preset in DATA_SETS:
        return pixels.train(args)
    if args.evaluate:
        evaluate = {"clip": _evaluate_pair, "classifier": _evaluate_classifier}
        return evaluate.get(args.stage, _evaluate)(args)
    if args.out is None:
        raise UsageError("where to? - name a folder with --out")
    if args.export:
        from sd_scratch.training.scenes.train import export_scenes

        export_scenes(args.out, args.export)
        print(args.export)
        return 0
    return _train(args)


def _train(args: argparse.Namespace) -> int:
    from sd_scratch.checkpoints import load_components
    from sd_scratch.training.scenes.train import train_scenes
    from sd_scratch.training.settings import Budget
    from sd_scratch.training.team import join_team

    if args.stage not in STAGES:
        stages = ", then --stage unet; --stage clip; --stage classifier"
        raise UsageError(f"which part? - --stage vae{stages}")
    if args.max_minutes is None and args.max_steps is None:
        raise UsageError("for how long? - give --max-minutes or --max-steps")
    init = load_components(args.init) if args.init else None
    with join_team("cpu") as team, progress_bar(1000, args.stage) as bar:

        def show(step: int, used: float, figures: dict[str, float]) -> None:
            bar.n = int(1000 * used)
            bar.set_postfix_str(f"step {step} loss {figures['loss']:.4f}", refresh=False)
            bar.update(0)

        outcome = train_scenes(
            args.stage,
            args.out,
            Budget(args.max_minutes, args.max_steps),
            resume=args.resume,
            init=init,
            on_step=show if team.leads else None,
            team=team,
        )
    if outcome.interrupted:
        print(f"stopped at step {outcome.step}; go on with --resume", file=sys.stderr)
        return INTERRUPTED
    print(args.out / RESULT[args.stage])
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from sd_scratch.checkpoints import load_components
    from sd_scratch.scenes.evaluate import evaluate_scenes

    components = load_components(args.evaluate)
    rows = evaluate_scenes(
        components, count=args.count or 500, steps=args.steps or 25, guidance=args.cfg_scale
    )
    print(_table(rows))
    return 0


def _evaluate_pair(args: argparse.Namespace) -> int:
    from sd_scratch.checkpoints.clip import load_clip
    from sd_scratch.training.scenes.pair_evaluation import evaluate_pair

    clip = load_clip(args.evaluate, offline=True)
    print("| question | asked | chance | right | wanted |\n|---|---|---|---|---|")
    for row in evaluate_pair(clip, **({"count": args.count} if args.count else {})):
        shares = (row.chance, row.right, row.gate)
        cells = [row.question, str(row.asked), *(f"{x:.1%}" for x in shares)]
        print(f"| {' | '.join(cells)} |")
    return 0


def _evaluate_classifier(args: argparse.Namespace) -> int:
    from sd_scratch.checkpoints import load_components
    from sd_scratch.checkpoints.pixel_model import load_classifier
    from sd_scratch.training.scenes.judge import evaluate_judge, shipped_classifier

    classifier = load_classifier(args.classifier or shipped_classifier())
    rows = evaluate_judge(
        load_components(args.evaluate),
        classifier,
        count=args.count or 200,
        steps=args.steps or 25,
        guidance=args.cfg_scale,
    )
    print(
        "| attribute | chance | classifier on renderings | generated, by the oracle |"
        " by the classifier | both agree |\n|---|---|---|---|---|---|"
    )
    for row in rows:
        shares = (row.chance, row.rendered, row.by_oracle, row.by_classifier, row.agreement)
        print(f"| {' | '.join([row.attribute, *(f'{x:.1%}' for x in shares)])} |")
    return 0


def _table(rows: "list[Row]") -> str:
    """The scores as a Markdown table, in percent."""
    lines = [
        "| prompts | asked for | pictures | chance | true renderings | VAE reconstructions | generated |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = (row.chance, row.rendered, row.reconstructed, row.generated)
        cells = [row.part, row.attribute, str(row.count), *(f"{x:.1%}" for x in shares)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
