"""``sd-scratch train``: train a model from nothing, go on with a training, or score a trained one."""

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from sd_scratch.cli.console import INTERRUPTED, progress_bar
from sd_scratch.cli.options import a_name, a_path, dtype, integer, number, refuse_flags
from sd_scratch.errors import UsageError
from sd_scratch.limits import GUIDANCE, STEPS
from sd_scratch.training.pixels.datasets import DATA_SETS, find_data, find_preset

if TYPE_CHECKING:
    from sd_scratch.training.loop import OnStep, Outcome
    from sd_scratch.training.pixels.images import DataSet
    from sd_scratch.training.pixels.presets import PixelPreset
    from sd_scratch.training.settings import TrainConfig
    from sd_scratch.training.team import Team

PIXELS = ", ".join(DATA_SETS)
SCENE_STAGES = ("vae", "unet", "clip", "classifier")
PIXEL_STAGES = ("ddpm", "classifier")
DTYPES = ("float32", "bfloat16")

OF_PIXELS = "--data --preset --batch --timesteps --device --dtype --sampler --train-on-samples"
OF_SCENES = "--init --scenes --crowded --decoder-only"
OF_DENOISERS = "--preset --timesteps --dtype --keep"
OF_SCORES = "--count --alike --steps --cfg-scale --classifier --sampler --train-on-samples"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("what", metavar="PRESET", choices=("scenes", *DATA_SETS), help=f"scenes, {PIXELS}")
    add(
        "--stage",
        choices=dict.fromkeys(SCENE_STAGES[:-1] + PIXEL_STAGES),
        help="which part: of scenes the vae, then the unet, and the clip pair that scores its pictures;"
        " of the others the ddpm (default); of all the classifier that judges the pictures",
    )
    add("-o", "--out", type=a_path, help="folder for states, journal and model")
    add("--max-minutes", type=number(0.01, 1e6), metavar="N", help="stop after so many minutes")
    add("--max-steps", type=integer(1, 10**9), metavar="N", help="or after so many steps")
    add("--epochs", type=integer(1, 10**6), help="or after so many passes through the data")
    add("--resume", action="store_true", help="go on from the newest state in --out")
    add(
        "--keep",
        type=integer(1, 30),
        metavar="N",
        help="keep N models on the way, of 1, 1/2, 1/4, ... of the time, in growth/ beside the states",
    )
    add(
        "--init",
        type=a_name,
        metavar="MODEL",
        help="scenes: begin with this model's weights, not from nothing",
    )
    add(
        "--scenes",
        type=integer(64, 10**7),
        metavar="N",
        help="scenes, --stage unet: how many are encoded, and seen again and again (default 64000)",
    )
    add("--crowded", action="store_true", help="scenes: of every two, train on the fuller one")
    add(
        "--decoder-only",
        action="store_true",
        help="scenes, --stage vae with --init: the encoder stays, and so do a U-Net's latents",
    )
    add("--lr", type=number(1e-8, 1), help="learning rate (default: the stage's)")
    add("-t", "--threads", type=integer(1, 1024), help="CPU threads")
    add(
        "--export",
        type=a_path,
        metavar="FOLDER",
        help="write the newest states of --out as a model",
    )
    add("--overwrite", action="store_true", help="replace the model in --export")
    _add_pixel_arguments(parser.add_argument_group(PIXELS))
    _add_score_arguments(parser.add_argument_group("scores"))


def _add_pixel_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--data", type=a_path, help="the data set's folder (default: see `data`)")
    add("--preset", type=a_name, help="better (default), paper, paper-64 or large")
    add("--batch", type=integer(1, 65536), help="pictures per step (default: the preset's)")
    add(
        "--timesteps",
        type=integer(2, STEPS[1]),
        metavar="T",
        help="how many lie between picture and noise (default: the preset's; 400 in the paper, 1000 for photographs)",
    )
    add("--device", type=a_name, help="cpu or cuda (default: a GPU where there is one)")
    add(
        "--dtype",
        type=dtype,
        choices=DTYPES,
        help="of the denoiser's arithmetic in training; weights stay float32 (default: bfloat16 on a"
        " GPU that has it, else float32)",
    )


def _add_score_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--evaluate",
        type=a_name,
        metavar="MODEL",
        help="train nothing: score a model, by name or folder",
    )
    add(
        "--count",
        type=integer(1, 100_000),
        help="prompts of scenes (default 500), else pictures (2000)",
    )
    add("--alike", action="store_true", help="scenes: as many prompts of every kind")
    add("--steps", type=integer(*STEPS), help="sampling steps (default: the model's, else 50)")
    add("--cfg-scale", type=number(*GUIDANCE), help="guidance (default: the model's)")
    add("--classifier", type=a_path, metavar="FOLDER", help="what judges the pictures")
    add("--sampler", type=a_name, metavar="NAME", help=f"{PIXELS}: how to sample (default ddim)")
    add(
        "--train-on-samples",
        type=integer(100, 100_000),
        metavar="N",
        help="also train a classifier on N samples and test it on real pictures",
    )


def run(args: argparse.Namespace) -> int:
    from sd_scratch.cli.machine import set_threads

    set_threads(args.threads)
    _check(args)
    if args.evaluate:
        from sd_scratch.cli.score import score

        return score(args)
    refuse_flags(args, OF_SCORES, "is for --evaluate")
    if args.out is None:
        raise UsageError("where to? - name a folder with --out")
    return _export(args) if args.export else _train(args)


def _check(args: argparse.Namespace) -> None:
    """Refuse what is for another preset or stage, and fill in the stage."""
    stages = PIXEL_STAGES if args.what in DATA_SETS else SCENE_STAGES
    if args.what in DATA_SETS:
        refuse_flags(args, f"{OF_SCENES} --alike", "is for scenes")
        args.stage = args.stage or "ddpm"
        if args.stage == "classifier":
            refuse_flags(args, OF_DENOISERS, "is for --stage ddpm")
    else:
        refuse_flags(args, OF_PIXELS, f"is for {PIXELS}")
        if args.stage is None and not (args.evaluate or args.export):
            later = ", then --stage unet; --stage clip; --stage classifier"
            raise UsageError(f"which part? - --stage vae{later}")
        if args.evaluate or args.export:
            refuse_flags(args, f"{OF_SCENES} --lr", "is for training")
        if args.stage != "unet":
            refuse_flags(args, "--scenes", "is for --stage unet")
        if args.stage in ("clip", "classifier"):
            refuse_flags(args, "--alike", "is for the pictures of scenes, without --stage")
    if args.stage not in (None, *stages):
        raise UsageError(f"{args.what} has no stage {args.stage} - {' or '.join(stages)}")


def _export(args: argparse.Namespace) -> int:
    from sd_scratch.cli.output import check_folder
    from sd_scratch.files import filled_folder

    check_folder(args.export, args.overwrite)
    if args.what in DATA_SETS:
        from sd_scratch.training.pixels.datasets import load_data
        from sd_scratch.training.pixels.train import export_ddpm

        preset = _preset(args, load_data(args.what, args.data))
        with filled_folder(args.export) as folder:
            export_ddpm(preset, args.out, folder, args.export)
    else:
        from sd_scratch.training.scenes.train import export_scenes

        export_scenes(args.out, args.export)
    print(args.export)
    return 0


def _train(args: argparse.Namespace) -> int:
    from sd_scratch.training.team import join_team

    if args.max_minutes is None and args.max_steps is None and args.epochs is None:
        raise UsageError("for how long? - give --max-minutes, --max-steps or --epochs")
    on_one = args.stage == "classifier" and args.what in DATA_SETS
    device = args.device if args.stage == "ddpm" else "cpu"
    with join_team(device) as team, progress_bar(1000 if team.leads else 0, args.stage) as bar:
        if on_one and team.size > 1:
            raise UsageError("a classifier is trained by one process - leave out torchrun")

        def show(step: int, used: float, figures: dict[str, float]) -> None:
            bar.n = int(1000 * used)
            bar.set_postfix_str(f"step {step} loss {figures['loss']:.4f}", refresh=False)
            bar.update(0)

        train = _train_pixels if args.what in DATA_SETS else _train_scenes
        outcome = train(args, team, show if team.leads else None)
        if not team.leads:
            return 0
    if outcome.interrupted:
        print(f"stopped at step {outcome.step}; go on with --resume", file=sys.stderr)
        return INTERRUPTED
    print(outcome.folder)
    return 0


def _train_scenes(args: argparse.Namespace, team: "Team", show: "OnStep | None") -> "Outcome":
    from sd_scratch.checkpoints import load_components
    from sd_scratch.training.scenes.train import SCENE_COUNT, STAGES, train_scenes
    from sd_scratch.training.settings import Budget

    return train_scenes(
        args.stage,
        args.out,
        Budget(args.max_minutes, args.max_steps, args.epochs),
        resume=args.resume,
        settings=replace(STAGES[args.stage], lr=args.lr) if args.lr else None,
        scene_count=args.scenes or SCENE_COUNT,
        crowded=args.crowded,
        decoder_only=args.decoder_only,
        init=load_components(args.init) if args.init else None,
        keep=args.keep or 0,
        on_step=show,
        team=team,
    )


def _train_pixels(args: argparse.Namespace, team: "Team", show: "OnStep | None") -> "Outcome":
    import torch

    from sd_scratch.training.pixels.datasets import load_data
    from sd_scratch.training.pixels.presets import judge_for_classes
    from sd_scratch.training.pixels.train import train_classifier, train_ddpm
    from sd_scratch.training.settings import Budget

    data = load_data(args.what, args.data)
    budget = Budget(args.max_minutes, args.max_steps, args.epochs)
    if args.stage == "classifier":
        judge = judge_for_classes(find_data(args.what).judge, len(data.train.class_names))
        judge = replace(judge, train=_changed(judge.train, args))
        return train_classifier(
            judge, args.what, data, args.out, budget, resume=args.resume, on_step=show
        )
    return train_ddpm(
        _preset(args, data),
        data,
        args.out,
        budget,
        resume=args.resume,
        keep=args.keep or 0,
        team=team,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
        on_step=show,
    )


def _preset(args: argparse.Namespace, data: "DataSet") -> "PixelPreset":
    from sd_scratch.training.pixels.presets import for_classes, with_timesteps

    preset = for_classes(find_preset(args.what, args.preset or "better"), data.train.class_names)
    if args.timesteps:
        preset = with_timesteps(preset, args.timesteps)
    return replace(preset, train=_changed(preset.train, args))


def _changed(train: "TrainConfig", args: argparse.Namespace) -> "TrainConfig":
    return replace(train, batch=args.batch or train.batch, lr=args.lr or train.lr)
