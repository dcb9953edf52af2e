"""``sd-scratch map faithfulness``: which maps tell the truth, measured on scenes."""

import argparse

from sd_scratch.cli.map.options import add_model, add_resume, add_sampling
from sd_scratch.cli.options import integer
from sd_scratch.errors import UsageError
from sd_scratch.limits import SEED

HELP = "which of the maps tell the truth: all of them against masks, swapped words and derivatives"
SCENES, CHECKS = 200, 20
QUICK_SCENES, QUICK_CHECKS = 8, 1
BATCH = 32


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
    add_resume(parser)
    run = parser.add_argument_group("run (default: the model's own)")
    add_sampling(run, "of the first scene's noise (0)", f"default: {BATCH}")
    add_model(parser)


def run(args: argparse.Namespace) -> None:
    from sd_scratch.cli.machine import place_among_processes
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.faithfulness import (
        count_pictures,
        examine,
        faithfulness_report,
        make_cases,
    )
    from sd_scratch.mapping.faithfulness.run import missing_cases, own_cases, read_parts

    share = place_among_processes()
    scenes = args.scenes or (QUICK_SCENES if args.quick else SCENES)
    checks = (QUICK_CHECKS if args.quick else CHECKS) if args.checks is None else args.checks
    cases = make_cases(scenes, max(args.seed, 0))
    args.prompt, args.batch_size = cases[0].prompt, args.batch_size or BATCH
    session = Session(args)
    session.require_full_precision()
    if (session.recipe.seed or 0) + scenes - 1 > SEED[1]:
        raise UsageError("the last scene's seed would exceed 2^64-1 - choose a smaller one")
    cases = make_cases(scenes, session.recipe.seed or 0)
    for case in cases:
        prompt = session.read(case.prompt)
        for target in case.targets:
            case.word(prompt, target)
    results = session.results("faithfulness", grows=True, shared=share[1] > 1)
    state = session.state(results, "prompt", "batch_size", checks=checks)
    own = own_cases(cases, share)
    missing = missing_cases(own, read_parts(state))
    sampler = str(session.recipe.sampler)
    with session.progress(count_pictures(missing, checks, sampler), results) as bar:
        parts = list(examine(session.rendering(bar.update), own, checks, state))
    if share[1] > 1:
        parts = read_parts(state)
        if missing_cases(cases, parts):
            return  # another process is not done, and writes the report
    report = faithfulness_report(parts, cases, checks)
    results.save(report, session.recipe, state=state, keep=True)
