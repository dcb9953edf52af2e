"""``sd-scratch weights compare``: which weights of two models differ, and where their runs part."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sd_scratch.cli.options import (
    a_name,
    add_lora_argument,
    add_size_arguments,
    integer,
    lora_files,
    number,
    refuse_flags,
    seed,
)
from sd_scratch.errors import UsageError, log
from sd_scratch.limits import GUIDANCE, STEPS

if TYPE_CHECKING:
    from sd_scratch.pipeline.adapters import LoraUse
    from sd_scratch.pipeline.image_noise import ImageNoise
    from sd_scratch.pipeline.stable_diffusion import StableDiffusion

    Loras = Sequence[tuple[Path, LoraUse]]


PROMPT, RUN_STEPS = "a photograph of an astronaut riding a horse", 2
TOLERANCE = 1e-4  # of a tensor's largest number, beside diffusers


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=a_name, help="a name, a file, a folder or a hub id")
    parser.add_argument(
        "other", type=a_name, nargs="?", help="another one (with --lora or --with: the same)"
    )
    add_lora_argument(parser, "a LoRA that the second one has, and beside diffusers both")
    group = parser.add_argument_group("through a run")
    add = group.add_argument
    add(
        "--run", action="store_true", help="make a picture with both: the first tensor that differs"
    )
    add(
        "--with",
        dest="reference",
        choices=("diffusers",),
        help="the other side of the run is diffusers' pipeline on the same files",
    )
    add("-p", "--prompt", help=f"(default: {PROMPT})")
    add("-n", "--negative-prompt", help="(default: the empty one)")
    add("-s", "--seed", type=seed, help="(default: 0)")
    add("--steps", type=integer(*STEPS), help=f"(default: {RUN_STEPS})")
    add("--cfg-scale", type=number(*GUIDANCE), metavar="SCALE")
    add("--sampler", type=a_name, metavar="NAME", help="(default: the first model's)")
    add_size_arguments(group, "pixels (default: the first model's)")
    add(
        "--tensors",
        action="append",
        metavar="GLOB",
        help="which, such as 'unet.*.attn2.probs' (default: all but what follows from others); may be "
        "given several times",
    )
    add(
        "--tolerance",
        type=number(0, 1),
        metavar="SHARE",
        help="what share of a tensor's largest number is no difference (default: 0, with diffusers "
        f"{TOLERANCE:g})",
    )


def compare_models(args: argparse.Namespace) -> int:
    """Exit status 0 for equal ones, 1 where tensors differ."""
    if args.reference and args.other:
        raise UsageError("--with diffusers takes one model: diffusers reads the same files")
    if not (args.other or args.lora or args.reference):
        raise UsageError("one model alone - name another one, or give --lora or --with diffusers")
    loras = lora_files(args)
    if args.run or args.reference:
        return _compare_runs(args, loras)
    flags = (
        "--prompt --negative-prompt --seed --steps --cfg-scale --sampler --width --height --tensors"
    )
    refuse_flags(args, f"{flags} --tolerance", "is for a run - give --run, too")
    return _compare_weights(args, loras)


def _compare_weights(args: argparse.Namespace, loras: "Loras") -> int:
    from sd_scratch.checkpoints.compare import compare, compare_networks, lines

    where = {"revision": args.revision, "offline": args.offline}
    if loras:
        model = _load(args, args.other or args.model, loras)
        found = compare_networks(args.model, model.components.networks, **where)
    else:
        found = compare(args.model, args.other, **where)
    return _show(args, found, lines(found))


def _show(args: argparse.Namespace, found: Sequence[Any], text: Sequence[str]) -> int:
    rows = [asdict(difference) for difference in found]
    print(json.dumps(rows, indent=2) if args.json else "\n".join(text))
    return 1 if found else 0


def _load(args: argparse.Namespace, source: str, loras: "Loras") -> "StableDiffusion":
    from sd_scratch.checkpoints.load import load_components
    from sd_scratch.pipeline.checks import check_inputs
    from sd_scratch.pipeline.stable_diffusion import StableDiffusion

    components = load_components(source, revision=args.revision, offline=args.offline)
    check_inputs(components.config, source)
    model = StableDiffusion(components)
    for path, use in loras:
        model = model.with_lora(path, use.scale, use.text_scale)
    return model


def _compare_runs(args: argparse.Namespace, loras: "Loras") -> int:
    from sd_scratch.checkpoints.load import read_layout
    from sd_scratch.pipeline.beside import lines, part, sketch_run

    globs = args.tensors or ()
    first = _load(args, args.model, loras if args.reference else ())
    settings, noise = _settings(args, first)
    if args.reference and settings["guidance"] < 1:
        raise UsageError("below 1 diffusers knows no guidance - give --cfg-scale 1 or more")
    prompt = args.prompt or PROMPT
    log.info(
        f"'{prompt}', seed {noise.seeds[0]}, {settings['steps']} steps of {settings['sampler']}, "
        f"guidance {settings['guidance']:g}, {noise.width}x{noise.height}"
    )
    if args.reference:
        mix = {"mix": "output"} if settings["sampler"] == "pndm" else {}  # as diffusers has it
        plain = first.prompt(prompt, syntax="plain")
        ours = sketch_run(first, plain, noise, globs, **settings, **mix)
        from sd_scratch.cli.compare.with_diffusers import sketch_diffusers

        path = read_layout(args.model, revision=args.revision, offline=args.offline).path
        settings.pop("schedule")
        theirs = sketch_diffusers(first, prompt, noise, globs, path=path, loras=loras, **settings)
        without = {a.name for a in ours.keys() - theirs.keys()}
        if without:
            log.info(f"{len(without)} tensors have no place in diffusers, such as {min(without)}")
        ours = {address: sketch for address, sketch in ours.items() if address in theirs}
        if not ours:
            raise UsageError("none of these tensors has a place in diffusers")
        tolerance = TOLERANCE if args.tolerance is None else args.tolerance
    else:
        ours = sketch_run(first, prompt, noise, globs, **settings)
        del first  # two models of full size need not be in memory at once
        second = _load(args, args.other or args.model, loras)
        noise = second.noise(noise.seeds[0], noise.width, noise.height)
        theirs = sketch_run(second, prompt, noise, globs, **settings)
        tolerance = args.tolerance or 0.0
    return _show(args, part(ours, theirs, tolerance), lines(ours, theirs, tolerance))


def _settings(
    args: argparse.Namespace, model: "StableDiffusion"
) -> "tuple[dict[str, Any], ImageNoise]":
    """What both sides are asked for: the flags over the first model's own settings."""
    from sd_scratch.diffusion.sampler_names import find_sampler
    from sd_scratch.pipeline.checks import check_own_sampler

    config = model.config
    check_own_sampler(args.sampler, config)
    sampler, named = find_sampler(args.sampler) if args.sampler else (config.sampler, None)
    settings = {
        "negative": args.negative_prompt or "",
        "steps": args.steps or RUN_STEPS,
        "sampler": sampler,
        "schedule": named,
        "guidance": config.guidance if args.cfg_scale is None else args.cfg_scale,
    }
    return settings, model.noise(max(args.seed or 0, 0), args.width, args.height)
