"""``sd-scratch train --evaluate``: how good a model is, as Markdown tables."""

import argparse
from collections.abc import Iterable, Sequence

from sd_scratch.cli.machine import choose_device
from sd_scratch.errors import UsageError
from sd_scratch.training.pixels.datasets import DATA_SETS, find_data, load_data


def score(args: argparse.Namespace) -> int:
    """Score the model that `args.evaluate` names."""
    if args.what in DATA_SETS:
        return _pixels(args)
    return {"clip": _pair, "classifier": _classifier}.get(args.stage, _scenes)(args)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _scenes(args: argparse.Namespace) -> int:
    from sd_scratch.checkpoints import load_components
    from sd_scratch.scenes.evaluate import COUNT, evaluate_scenes, interval

    rows = evaluate_scenes(
        load_components(args.evaluate),
        count=args.count or COUNT,
        alike=args.alike,
        steps=args.steps,
        guidance=args.cfg_scale,
    )
    header = (
        "prompts",
        "asked for",
        "pictures",
        "chance",
        "true renderings",
        "VAE reconstructions",
    )
    cells = (
        (
            row.part,
            row.attribute,
            str(row.count),
            *_percent(row.chance, row.rendered, row.reconstructed, row.generated),
            " to ".join(_percent(*interval(row.generated, row.count))),
        )
        for row in rows
    )
    print(table((*header, "generated", "95 % interval"), cells))
    return 0


def _pair(args: argparse.Namespace) -> int:
    from sd_scratch.checkpoints.clip import load_clip
    from sd_scratch.training.scenes.pair_evaluation import COUNT, evaluate_pair

    rows = evaluate_pair(load_clip(args.evaluate, offline=True), count=args.count or COUNT)
    cells = (
        (row.question, str(row.asked), *_percent(row.chance, row.right, row.gate)) for row in rows
    )
    print(table(("question", "asked", "chance", "right", "wanted"), cells))
    return 0


def _classifier(args: argparse.Namespace) -> int:
    from sd_scratch.checkpoints import load_components
    from sd_scratch.checkpoints.pixel_model import load_classifier
    from sd_scratch.training.scenes.judge import evaluate_judge, shipped_classifier

    rows = evaluate_judge(
        load_components(args.evaluate),
        load_classifier(args.classifier or shipped_classifier()),
        count=args.count or 200,
        steps=args.steps,
        guidance=args.cfg_scale,
    )
    header = ("attribute", "chance", "classifier on renderings", "generated, by the oracle")
    cells = (
        (
            row.attribute,
            *_percent(row.chance, row.rendered, row.by_oracle, row.by_classifier, row.agreement),
        )
        for row in rows
    )
    print(table((*header, "by the classifier", "both agree"), cells))
    return 0


def _pixels(args: argparse.Namespace) -> int:
    from sd_scratch.checkpoints.pixel_model import load_classifier
    from sd_scratch.pipeline.pixel_diffusion import load_pixels
    from sd_scratch.training.pixels.evaluate import COUNT, evaluate_pixels

    if args.classifier is None:
        raise UsageError(
            "who judges? - train a classifier with --stage classifier, name it with --classifier"
        )
    judge, data = load_classifier(args.classifier), load_data(args.what, args.data)
    model = load_pixels(args.evaluate, choose_device(args.device or "cpu"))
    scale = model.config.guidance if args.cfg_scale is None else args.cfg_scale
    sampler, steps = args.sampler or "ddim", args.steps or 50
    scores = evaluate_pixels(
        model,
        judge,
        data,
        find_data(args.what).judge,
        count=args.count or COUNT,
        learn_from=args.train_on_samples,
        sampler=sampler,
        steps=steps,
        guidance=scale,
    )
    rows = [
        ("class accuracy", f"{scores.accuracy:.2%}", f"{scores.real_accuracy:.2%}"),
        ("mean probability of the class", f"{scores.probability:.4f}", ""),
        ("Fréchet distance to real test pictures", f"{scores.frechet:.3f}", f"{scores.floor:.3f}"),
        ("the same, over the floor", f"{scores.frechet / max(scores.floor, 1e-9):.2f} x", "1 x"),
    ]
    if scores.learnt is not None:
        what = "accuracy on real pictures after learning from these"
        rows.append((what, f"{scores.learnt:.2%}", ""))
    by_class = zip(model.config.class_names, scores.by_class, strict=True)
    rows += [(f"class accuracy, {name}", f"{share:.1%}", "") for name, share in by_class]
    print(f"{sampler}, {steps} steps, guidance {scale:g}\n")
    print(table((f"of {scores.count:,} samples", "samples", "real pictures"), rows))
    return 0


def _percent(*shares: float) -> list[str]:
    return [f"{share:.1%}" for share in shares]
