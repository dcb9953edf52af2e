"""``sd-scratch map noise``: what the noise alone decides, over many seeds."""

import argparse

from sd_scratch.cli.map.options import add_run
from sd_scratch.cli.options import integer
from sd_scratch.errors import UsageError

HELP = "what the noise decides: CLIP scores, mean and spread of pictures over many seeds"
CLIP_OF = {"scenes": "scenes-clip"}  # by the model's name
DEFAULT_CLIP = "openai/clip-vit-base-patch32"
WITHOUT = "none"
PROMPTS = {
    "astronaut": (
        "a photograph of an astronaut in space",
        "a photograph of an astronaut riding an elephant",
        "a photograph of a traveller far from home",
        "a picture of a long journey",
        "longing",
    ),
    "scenes": (
        "a large red star to the left of a small blue circle on a white background",
        "a red star and a blue circle",
        "a red star",
        "a star",
        "a shape",
    ),
}
"""Five prompts each, every one of which says less than the one before. The source gives two of its
five, the first two of ``astronaut``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", nargs="*", help="one, or several to compare")
    parser.add_argument(
        "--prompts",
        choices=tuple(PROMPTS),
        help="five ready prompts instead, each of which says less than the one before",
    )
    parser.add_argument(
        "--seeds", type=integer(2, 1_000_000), default=16, help="how many, from -s on (default: 16)"
    )
    parser.add_argument(
        "--clip",
        metavar="MODEL",
        help="CLIP for the scores: a shipped one by name, a folder, a hub id, or "
        f"{WITHOUT} (default: scenes-clip for scenes, else {DEFAULT_CLIP})",
    )
    add_run(parser)


def run(args: argparse.Namespace) -> None:
    from sd_scratch.checkpoints.clip import load_clip, locate_clip
    from sd_scratch.checkpoints.source import called
    from sd_scratch.cli.machine import place_among_processes
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.seeds import draw_seeds, missing_seeds, seeds_report

    rank, processes = place_among_processes()
    if bool(args.prompt) == bool(args.prompts):
        raise UsageError("give a prompt, or --prompts with the name of a ready set of them")
    args.prompt = args.prompt or list(PROMPTS[args.prompts])
    if len(set(args.prompt)) < len(args.prompt):
        raise UsageError("a prompt was given twice")
    session = Session(args)
    args.clip = args.clip or CLIP_OF.get(session.layout.config.name, DEFAULT_CLIP)
    for text in args.prompt:
        session.words(text, [], changing=True)
    results = session.results("noise", grows=True, shared=processes > 1)
    clip = None
    if args.clip != WITHOUT:
        locate_clip(args.clip, offline=args.offline)
        clip = load_clip(args.clip, offline=args.offline, device=session.found.device)
    name = called(args.clip)
    state = session.state(results, "prompt", "seed", "batch_size", clip=name)
    first = session.recipe.seed or 0
    seeds, share = range(first, first + args.seeds), (rank, processes)
    prompts = [session.encode(text) for text in args.prompt]
    missing = missing_seeds(prompts, seeds, state, share)
    with session.progress(sum(map(len, missing)), results) as bar:
        found = draw_seeds(session.rendering(bar.update), prompts, seeds, clip, state, share=share)
    if found is not None:  # else another process is not done
        report = seeds_report(prompts, found, clip)
        report.facts.update({"seeds": args.seeds, "clip": name})
        results.save(report, session.recipe, state=state, keep=True)
