"""The parts of ``train`` and ``sample`` that concern models of pixels: mnist, fashion-mnist, cifar10."""

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sd_scratch.cli.console import progress_bar
from sd_scratch.cli.options import integer, number
from sd_scratch.errors import UsageError
from sd_scratch.training.pixels.datasets import DATA_SETS

if TYPE_CHECKING:
    import torch

    from sd_scratch.pipeline.pixel_diffusion import PixelDiffusion
    from sd_scratch.training.loop import Outcome
    from sd_scratch.training.pixels.evaluate import Scores
    from sd_scratch.training.pixels.images import DataSet
    from sd_scratch.training.pixels.presets import PixelPreset
    from sd_scratch.training.settings import Budget
    from sd_scratch.training.team import Team

STAGES = ("ddpm", "classifier")
INTERRUPTED = 130
COUNT = 2000
SAMPLES_MINUTES = 3.0
FRAMES = 50
DTYPES = ("float32", "bfloat16")


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(", ".join(DATA_SETS))
    group.add_argument("--data", type=Path, help="the data set's folder (default: see `data`)")
    group.add_argument(
        "--preset",
        dest="variant",
        default="better",
        help="better (default), paper, paper-64 or large",
    )
    group.add_argument("--batch", type=integer(1, 65536), help="pictures per step")
    group.add_argument("--lr", type=number(1e-8, 1), help="learning rate")
    group.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of the denoiser's arithmetic in training; weights stay float32 (default: bfloat16 on a"
        " GPU that has it, else float32)",
    )
    group.add_argument(
        "--classifier", type=Path, metavar="FOLDER", help="judges the pictures for --evaluate"
    )
    group.add_argument("--sampler", help="for --evaluate (default: ddim)")
    group.add_argument(
        "--train-on-samples",
        type=integer(100, 100_000),
        metavar="N",
        help="for --evaluate: also train a classifier on N samples and test it on real pictures",
    )


def add_sample_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(", ".join(DATA_SETS))
    group.add_argument(
        "--class",
        dest="classes",
        action="append",
        metavar="NAME",
        help="a class by name, by number where the names are words, or none; again for more (default: all)",
    )
    group.add_argument("--sampler", help="ddpm, ddim, pndm, lms, ... (default: the model's)")
    group.add_argument("--film", type=Path, metavar="FILE.gif", help="show how they come about")


# Training -----------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> int:
    """``sd-scratch train`` for one of `DATA_SETS`."""
    if args.evaluate:
        return _evaluate(args)
    if args.out is None:
        raise UsageError("where to? - name a folder with --out")
    if args.export:
        return _export(args)
    if args.max_minutes is None and args.max_steps is None:
        raise UsageError("for how long? - give --max-minutes or --max-steps")

    from sd_scratch.training.settings import Budget
    from sd_scratch.training.team import join_team

    budget = Budget(args.max_minutes, args.max_steps)
    stage = args.stage or "ddpm"
    if stage not in STAGES:
        raise UsageError(f"{args.preset} has no stage {stage} - {' or '.join(STAGES)}")
    with join_team("cpu" if stage == "classifier" else args.device) as team:
        if stage == "classifier" and team.size > 1:
            raise UsageError("a classifier is trained by one process - leave out torchrun")
        outcome = _run(args, stage, budget, team)
        if not team.leads:
            return 0
    if outcome.interrupted:
        print(f"stopped at step {outcome.step}; go on with --resume", file=sys.stderr)
        return INTERRUPTED
    print(args.out / ("model" if stage == "ddpm" else "classifier"))
    return 0


def _run(args: argparse.Namespace, stage: str, budget: "Budget", team: "Team") -> "Outcome":
    import torch

    from sd_scratch.training.pixels import train as runs
    from sd_scratch.training.pixels.datasets import load_data
    from sd_scratch.training.pixels.presets import judge_for_classes

    data = load_data(args.preset, args.data)
    with progress_bar(1000 if team.leads else 0, stage) as bar:

        def show(step: int, used: float, figures: dict[str, float]) -> None:
            if team.leads:
                bar.n = int(1000 * used)
                bar.set_postfix_str(f"step {step} loss {figures['loss']:.4f}", refresh=False)
                bar.update(0)

        if stage == "ddpm":
            preset = _preset(args, data)
            return runs.train_ddpm(
                preset,
                data,
                args.out,
                budget,
                resume=args.resume,
                team=team,
                dtype=getattr(torch, args.dtype) if args.dtype else None,
                on_step=show,
            )
        judge = judge_for_classes(DATA_SETS[args.preset].judge, len(data.train.class_names))
        return runs.train_classifier(
            judge, args.preset, data, args.out, budget, resume=args.resume, on_step=show
        )


def _preset(args: argparse.Namespace, data: "DataSet | None") -> "PixelPreset":
    from sd_scratch.training.pixels.datasets import find_preset
    from sd_scratch.training.pixels.presets import for_classes

    preset = find_preset(args.preset, args.variant)
    if data is not None:
        preset = for_classes(preset, data.train.class_names)
    changes = {"batch": args.batch, "lr": args.lr}
    given = {key: value for key, value in changes.items() if value is not None}
    return replace(preset, train=replace(preset.train, **given))


def _export(args: argparse.Namespace) -> int:
    from sd_scratch.training.pixels.datasets import load_data
    from sd_scratch.training.pixels.train import export_ddpm

    data = load_data(args.preset, args.data)
    preset = _preset(args, data)
    export_ddpm(preset, args.out, args.export)
    print(args.export)
    return 0


# Scoring ------------------------------------------------------------------------------------


def _evaluate(args: argparse.Namespace) -> int:
    from sd_scratch.checkpoints.pixel_model import load_classifier
    from sd_scratch.cli.machine import choose_device
    from sd_scratch.training.pixels.datasets import load_data
    from sd_scratch.training.pixels.evaluate import (
        check_same_kind,
        make_pictures,
        score_pictures,
        trained_on_samples,
    )
    from sd_scratch.training.pixels.presets import judge_for_classes
    from sd_scratch.training.settings import Budget

    if args.classifier is None:
        raise UsageError(
            "who judges? - train a classifier with --stage classifier, name it with --classifier",
        )
    judge, data = load_classifier(args.classifier), load_data(args.preset, args.data)
    check_same_kind(judge, data)
    model = _load(args.evaluate, choose_device(args.device or "cpu"))
    count, sampler, steps = args.count or COUNT, args.sampler or "ddim", args.steps or 50
    scale = model.config.guidance if args.cfg_scale is None else args.cfg_scale
    total = max(count, args.train_on_samples or 0)
    made = make_pictures(model, total, sampler=sampler, steps=steps, guidance=scale)
    scores = score_pictures(judge, made.first(count), data)
    learnt = None
    if args.train_on_samples:
        preset = judge_for_classes(DATA_SETS[args.preset].judge, len(data.train.class_names))
        learnt = trained_on_samples(made, data, preset, Budget(minutes=SAMPLES_MINUTES))
    print(f"{sampler}, {steps} steps, guidance {scale:g}\n")
    print(table(scores, learnt, made.class_names))
    return 0


def table(scores: "Scores", learnt: float | None, names: tuple[str, ...]) -> str:
    """The scores as a Markdown table."""
    lines = [
        f"| of {scores.count:,} samples | samples | real pictures |",
        "|---|---|---|",
        f"| class accuracy | {scores.accuracy:.2%} | {scores.real_accuracy:.2%} |",
        f"| mean probability of the class | {scores.probability:.4f} | |",
        f"| Fréchet distance to real test pictures | {scores.frechet:.3f} | {scores.floor:.3f} |",
        f"| the same, over the floor | {scores.frechet / max(scores.floor, 1e-9):.2f} x | 1 x |",
    ]
    if learnt is not None:
        lines.append(f"| accuracy on real pictures after learning from these | {learnt:.2%} | |")
    for name, share in zip(names, scores.by_class, strict=True):
        lines.append(f"| class accuracy, {name} | {share:.1%} | |")
    return "\n".join(lines)


# Sampling -----------------------------------------------------------------------------------


def sample(args: argparse.Namespace, device: "torch.device") -> int:
    """``sd-scratch sample`` for one of `DATA_SETS`."""
    from sd_scratch.diffusion.noise import random_seed
    from sd_scratch.pictures.film import save_film
    from sd_scratch.pictures.grid import save_grid

    model = _load(args.model or f"ddpm-{args.preset}", device)
    asked = [_class_number(model, name) for name in args.classes or ()]
    rows = asked or list(range(min(model.no_class, args.rows or 64)))
    first = random_seed() if args.seed == -1 else args.seed
    classes = [number for number in rows for _ in range(args.batch_count)]
    seeds = [first + i for i in range(len(classes))]
    columns = args.batch_count if len(rows) > 1 else math.ceil(math.sqrt(args.batch_count))
    settings = {"sampler": args.sampler, "steps": args.steps, "guidance": args.cfg_scale}
    if args.film:
        made = model.steps(classes, seeds, **settings)
        stages = [model.to_picture(step.x_next) for step in made]
        rgb = [stage.expand(-1, 3, -1, -1) for stage in stages]
        save_film(rgb[:: -max(1, len(rgb) // FRAMES)][::-1], args.film, columns)
        pictures = stages[-1]
        print(args.film)
    else:
        pictures = model.generate(classes, seeds, **settings)
    save_grid(pictures.expand(-1, 3, -1, -1), args.output, columns)
    print(args.output)
    return 0


def _load(source: str, device: "torch.device") -> "PixelDiffusion":
    from sd_scratch.checkpoints.pixel_model import load_pixel_model
    from sd_scratch.pipeline.pixel_diffusion import PixelDiffusion

    components = load_pixel_model(source)
    components.network.to(device)
    return PixelDiffusion(components)


def _class_number(model: "PixelDiffusion", name: str) -> int | None:
    """A class by its name, or "none" for pictures of no class in particular; where no class is called
    by a number, also by its number, from 0."""
    names = model.config.class_names
    if name in names:
        return names.index(name)
    if name == "none":
        return None
    numbered = any(word.isdecimal() for word in names)
    if not numbered and name.isdecimal() and int(name) < len(names):
        return int(name)
    raise UsageError(f"class {name!r} is unknown - there is {', '.join(names[:20])}")
