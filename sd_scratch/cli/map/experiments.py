"""The experiments, each from its arguments to a folder of results."""

import argparse
import sys

from sd_scratch.checkpoints.clip import load_clip, locate_clip
from sd_scratch.checkpoints.source import called
from sd_scratch.cli.machine import place_among_processes
from sd_scratch.cli.map.arguments import (
    BATCH,
    CHECKS,
    CLIP_OF,
    DEFAULT_CLIP,
    PROMPTS,
    QUICK_CHECKS,
    QUICK_SCENES,
    SCENES,
    WITHOUT,
)
from sd_scratch.cli.map.move import by_keys
from sd_scratch.cli.map.results import Results
from sd_scratch.cli.map.session import Session
from sd_scratch.diffusion.samplers import get_sampler
from sd_scratch.errors import UsageError
from sd_scratch.limits import SEED
from sd_scratch.mapping.adjustment import adjustment_report
from sd_scratch.mapping.faithfulness import count_pictures, examine, faithfulness_report, make_cases
from sd_scratch.mapping.faithfulness.run import missing_cases, own_cases, read_parts
from sd_scratch.mapping.field import POINTS, field_report, make_blobs, read_points
from sd_scratch.mapping.gradient import count_pictures as count_derivatives
from sd_scratch.mapping.gradient import gradient_report
from sd_scratch.mapping.heat import choose_layers, heat_report
from sd_scratch.mapping.latent import film_report, guidance_report, latent_report
from sd_scratch.mapping.movement import check_count, make_plane, movement_report, read_path
from sd_scratch.mapping.perturbation import perturbation_report
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.mapping.report import Report
from sd_scratch.mapping.seeds import draw_seeds, missing_seeds, seeds_report
from sd_scratch.mapping.text_attention import attention_report, text_attention, words_report
from sd_scratch.mapping.words import check_places
from sd_scratch.pipeline.complete import drawn
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.recipe import Recipe


def attention(args: argparse.Namespace) -> None:
    session = Session(args)
    session.words(args.prompt, [])
    config = session.layout.config.text
    layers = check_places("layer", args.layers, config.num_hidden_layers)
    heads = check_places("head", args.heads, config.num_attention_heads)
    results = session.results("attention")
    read = text_attention(session.model, args.prompt, clip_skip=session.recipe.clip_skip or 1)
    results.save(attention_report(read, layers, heads), session.text_recipe)


def words(args: argparse.Namespace) -> None:
    session = Session(args)
    for text in args.prompt:
        session.words(text, [])
    config = session.layout.config.text
    check_places("layer", args.layers, config.num_hidden_layers)
    check_places("head", args.heads, config.num_attention_heads)
    results = session.results("words")
    skip = session.recipe.clip_skip or 1
    reads = [text_attention(session.model, text, clip_skip=skip) for text in args.prompt]
    report = words_report(
        reads, layers=args.layers, heads=args.heads, special=args.special, by_layer=args.by_layer
    )
    results.save(report, session.text_recipe)


def adjust(args: argparse.Namespace) -> None:
    session = Session(args)
    words = session.words(args.prompt, args.word)
    samplers = args.samplers or [session.recipe.sampler]
    session.perform(
        "adjust",
        len(words) * len(samplers) * len(args.lambdas),
        lambda rendering, prompt: adjustment_report(
            rendering, prompt, words, samplers, args.lambdas, origin=args.origin
        ),
        sampler=",".join(samplers),
    )


def perturb(args: argparse.Namespace) -> None:
    session = Session(args)
    session.require_full_precision()
    words = session.words(args.prompt, args.word)
    session.perform(
        "perturb",
        1 + len(words),
        lambda rendering, prompt: perturbation_report(
            rendering, prompt, words, amount=args.amount, origin=args.origin
        ),
    )


def gradient(args: argparse.Namespace) -> None:
    session = Session(args)
    if args.method != "exact":
        session.require_full_precision()
    words = session.words(args.prompt, args.word)
    how = {"method": args.method, "amount": args.amount, "origin": args.origin}
    session.perform(
        "gradient",
        count_derivatives(len(words), args.method),
        lambda rendering, prompt: gradient_report(rendering, prompt, words, **how),
    )


def heat(args: argparse.Namespace) -> None:
    session = Session(args)
    words = session.words(args.ask or args.prompt, args.word)
    layers = choose_layers(session.cross_attention_layers(), args.layers)
    check_places("head", args.heads, session.layout.config.unet.heads(0))
    which = {"layers": layers, "heads": args.heads, "calls": args.calls}

    def report(rendering: Rendering, prompt: Prompt) -> Report:
        asked = session.encode(args.ask) if args.ask else None
        return heat_report(rendering, prompt, words, asked, **which)

    session.perform("heat", 1, report)


def noise(args: argparse.Namespace) -> None:
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


def latent(args: argparse.Namespace) -> None:
    Session(args).perform("latent", 1, latent_report)


def film(args: argparse.Namespace) -> None:
    Session(args).perform("film", 1, film_report)


def guidance(args: argparse.Namespace) -> None:
    if args.cfg_scale is not None:
        raise UsageError("--cfg-scale is what this experiment varies - give --scales")
    args.cfg_scale = max(args.scales, key=abs)  # what the warnings are about
    session = Session(args)
    first = session.recipe.seed or 0
    if first + args.seeds - 1 > SEED[1]:
        raise UsageError("the last row's seed would exceed 2^64-1 - choose a smaller one")
    seeds = range(first, first + args.seeds)
    session.perform(
        "guidance",
        len(args.scales) * args.seeds,
        lambda rendering, prompt: guidance_report(rendering, prompt, args.scales, seeds),
        guidance=args.scales[0],
    )


def field(args: argparse.Namespace) -> None:
    for name in args.samplers:
        get_sampler(name)
    points = POINTS if args.points is None else read_points(args.points)
    blobs = make_blobs(points, args.width)
    number_of_run = drawn(args.seed)
    results = Results(args.output, "field", overwrite=args.overwrite)
    report = field_report(blobs, args.samplers, args.steps, args.paths, number_of_run)
    recipe = Recipe(
        prompt="", seed=number_of_run, steps=args.steps, sampler=",".join(args.samplers)
    )
    results.save(report, recipe)


def faithfulness(args: argparse.Namespace) -> None:
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


def move(args: argparse.Namespace) -> None:
    session = Session(args)
    for text in args.prompt:
        session.words(text, [])
    check_count(len(set(args.prompt)), args.components)
    texts = args.path or [str(i + 1) for i in range(len(args.prompt))]
    path = read_path(texts, len(args.prompt))
    if not args.interactive and len(path) > args.frames:
        raise UsageError(f"--frames {args.frames} are too few for {len(path)} places")
    if args.interactive and not sys.stdin.isatty():
        raise UsageError("--interactive needs a terminal to read keys from")
    results = session.results("move")
    plane = make_plane([session.encode(text) for text in args.prompt], args.components)
    if args.interactive:
        results.save(by_keys(session, plane, path, results), session.recipe)
        return
    with session.progress(args.frames, results) as bar:
        state = session.state(results, "prompt")
        report = movement_report(session.rendering(bar.update, state), plane, path, args.frames)
    report.facts.update({"path": texts, "frames": args.frames})
    results.save(report, session.recipe, state=state)
