"""``sd-scratch map noise``: what the noise alone decides, over many seeds."""

import argparse
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sd_scratch.cli.map.options import add_run
from sd_scratch.cli.options import integer
from sd_scratch.errors import ScratchError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from sd_scratch.checkpoints.clip import ClipModel
    from sd_scratch.cli.map.results import Results
    from sd_scratch.cli.map.session import Session
    from sd_scratch.mapping.seeds import Moments

HELP = "what the noise decides: CLIP scores, mean and spread of pictures over many seeds"
CLIP_OF = {"scenes": "scenes-clip"}  # by the model's name
DEFAULT_CLIP = "openai/clip-vit-base-patch32"
WITHOUT = "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", nargs="+", help="one, or several to compare")
    parser.add_argument(
        "--seeds", type=integer(2, 1_000_000), default=16, help="how many, from -s on (default: 16)"
    )
    parser.add_argument(
        "--clip",
        metavar="MODEL",
        help="CLIP for the scores: a shipped one by name, a folder, a hub id, or "
        f"{WITHOUT} (default: scenes-clip for scenes, else {DEFAULT_CLIP})",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on in the folder of -o; nothing is made twice"
    )
    add_run(parser)


@dataclass
class State:
    """What is known of one prompt: which seeds were drawn, their scores, and the pictures' moments."""

    seeds: list[int]
    scores: "Tensor"
    moments: "Moments | None"


def run(args: argparse.Namespace) -> None:
    from sd_scratch.checkpoints.clip import load_clip, locate_clip
    from sd_scratch.cli.console import progress_bar
    from sd_scratch.cli.map.results import Results
    from sd_scratch.cli.map.session import Session

    rank, processes = place_among_processes()
    shared = args.resume or processes > 1
    if shared and args.output is None:
        how = "--resume" if args.resume else "a run of several processes"
        raise UsageError(f"{how} needs a folder of its own - name it with -o")
    session = Session(args)
    args.clip = args.clip or CLIP_OF.get(session.layout.config.name, DEFAULT_CLIP)
    if len(set(args.prompt)) < len(args.prompt):
        raise UsageError("a prompt was given twice")
    for text in args.prompt:
        session.words(text, [])
    results = Results(args.output, "noise", overwrite=args.overwrite or shared)
    if args.clip != WITHOUT:
        locate_clip(args.clip, offline=args.offline)
    mark = fingerprint(session, args)
    if not shared:
        for text in args.prompt:
            for path in state_files(results.folder, text):
                path.unlink()
    states = [read_states(results.folder, text, mark) for text in args.prompt]
    first = session.recipe.seed or 0
    wanted = range(first, first + args.seeds)
    mine = wanted[rank::processes]  # fixed, however far the other processes are
    missing = [[seed for seed in mine if seed not in set(state.seeds)] for state in states]
    clip = None
    if args.clip != WITHOUT:
        clip = load_clip(args.clip, offline=args.offline, device=session.device)
    with progress_bar(sum(map(len, missing)) * (session.recipe.steps or 0), "steps") as bar:
        for text, seeds in zip(args.prompt, missing, strict=True):
            name = state_name(text, rank)
            own = read_state(results.folder / name, mark)
            for start in range(0, len(seeds), session.batch_size):
                part = seeds[start : start + session.batch_size]
                own = add_seeds(session, clip, text, part, own, bar.update)
                write_state(results, name, mark, own)
    states = [read_states(results.folder, text, mark) for text in args.prompt]
    if all(set(wanted) <= set(state.seeds) for state in states):  # else another process is not done
        save(session, results, args, states, clip)


def place_among_processes() -> tuple[int, int]:
    """This process' number and how many there are, as torchrun tells; alone, 0 of 1."""
    try:
        rank, count = (int(os.environ.get(k, d)) for k, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
    except ValueError:
        rank, count = -1, 0
    if not 0 <= rank < count:
        raise ScratchError("RANK and WORLD_SIZE in the environment are no numbers of a run")
    return rank, count


def state_name(prompt: str, rank: int) -> str:
    return f"state-{hashlib.sha256(prompt.encode()).hexdigest()[:12]}-{rank}.safetensors"


def state_files(folder: Path, prompt: str) -> list[Path]:
    """What all processes left of a prompt."""
    return sorted(folder.glob(state_name(prompt, 0).replace("-0.", "-*.")))


def read_states(folder: Path, prompt: str, mark: str) -> State:
    """What all processes left, in the order of the seeds."""
    import torch

    states = [read_state(path, mark) for path in state_files(folder, prompt)]
    seeds = [seed for state in states for seed in state.seeds]
    scores = torch.cat([torch.zeros(0), *(state.scores for state in states)])
    order = sorted(range(len(seeds)), key=seeds.__getitem__)
    moments = None
    for part in (state.moments for state in states):
        moments = part if moments is None or part is None else moments.merged(part)
    return State([seeds[i] for i in order], scores[order], moments)


def fingerprint(session: "Session", args: argparse.Namespace) -> str:
    """All that pictures and scores depend on, but prompt and seed."""
    known = {k: v for k, v in session.recipe.known.items() if k not in ("prompt", "seed")}
    clip = args.clip if not Path(args.clip).is_dir() else Path(args.clip).resolve().name
    return json.dumps({**known, "clip": clip}, sort_keys=True)


def read_state(path: Path, mark: str) -> State:
    """What one process left. Raises ScratchError (bad usage) where it had other settings."""
    import torch
    from safetensors import safe_open

    from sd_scratch.checkpoints.safetensors_file import read_header
    from sd_scratch.mapping.seeds import Moments

    if not path.is_file():
        return State([], torch.zeros(0), None)
    read_header(path)
    with safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get("settings") != mark:
            raise UsageError(
                f"{path} was made with other settings - use those of settings.json beside it, or "
                "another folder",
            )
        seeds = file.get_tensor("seeds").tolist()
        moments = Moments(len(seeds), file.get_tensor("mean"), file.get_tensor("squares"))
        return State(seeds, file.get_tensor("scores"), moments)


def write_state(results: "Results", name: str, mark: str, state: State) -> None:
    """One file for all of it, so that a run that is killed has either a batch or nothing of it."""
    import torch
    from safetensors.torch import save as to_bytes

    assert state.moments is not None
    tensors = {
        "seeds": torch.tensor(state.seeds),
        "scores": state.scores,
        "mean": state.moments.mean,
        "squares": state.moments.squares,
    }
    results.keep(name, to_bytes(tensors, {"settings": mark}))


def add_seeds(
    session: "Session",
    clip: "ClipModel | None",
    text: str,
    seeds: list[int],
    state: State,
    on_step: "Callable[[int], object]",
) -> State:
    """The state after some more seeds."""
    import torch

    from sd_scratch.mapping.clip_score import clip_scores
    from sd_scratch.mapping.seeds import Moments, seed_pictures

    prompt, noise = session.encode(text), session.noise(seeds)
    pixels = seed_pictures(session.model, prompt, noise, session.settings, on_step)
    scores = torch.full((len(seeds),), float("nan"))
    if clip is not None:
        scores = clip_scores(clip, pixels, text)
    moments = Moments.of(pixels.double() / 255)
    if state.moments is not None:
        moments = state.moments.merged(moments)
    return State([*state.seeds, *seeds], torch.cat([state.scores, scores]), moments)


def meaning(clip: "ClipModel") -> str:
    """What a score of that model is, for people."""
    scale = float(clip.network.logit_scale.exp())
    usual = "; pictures that fit have about 25 to 35" if clip.name == DEFAULT_CLIP else ""
    return (
        f"A score says how well a picture fits its prompt by {clip.name}: the cosine of their vectors "
        f"times {scale:.0f}, the scale that it learnt{usual}."
    )


def save(
    session: "Session",
    results: "Results",
    args: argparse.Namespace,
    states: list[State],
    clip: "ClipModel | None",
) -> None:
    from PIL import Image

    from sd_scratch.mapping.charts import Curve, line_chart
    from sd_scratch.mapping.drawing import PAPER, Cell, grey_map, hues, picture, scale_bar, sheet
    from sd_scratch.mapping.maps import Map, largest
    from sd_scratch.mapping.seeds import running

    colours = hues(len(states))
    curves = [running(state.scores) for state in states]
    ends = [f"{float(m[-1]):.2f} ± {float(d[-1]):.2f}" for m, d in curves]
    if clip is not None:
        lines = [
            Curve(m.tolist(), d.tolist(), c) for (m, d), c in zip(curves, colours, strict=True)
        ]
        chart = Cell(line_chart(lines, "seeds", "CLIP score"), enlarge=False)
        legend = [
            [Cell(Image.new("RGB", (640, 1), PAPER), f"{end}   {text}", colour, enlarge=False)]
            for text, colour, end in zip(args.prompt, colours, ends, strict=True)
        ]
        note = (
            "Lines: the mean score of the first pictures; bands: one standard deviation of the scores "
            f"to both sides. {meaning(clip)} Before the prompts: the last mean and deviation."
        )
        figure = sheet("How much the seed decides", [[chart], *legend], notes=[note])
        results.picture("scores.png", figure)

    moments = [state.moments for state in states if state.moments is not None]
    spread = [
        Map(
            m.variance.mean(dim=0).sqrt().float(),
            (m.mean.shape[2], m.mean.shape[1]),
            text,
            "standard deviation over seeds, root mean square of the colours",
            "colour (0 to 1)",
        )
        for m, text in zip(moments, args.prompt, strict=True)
    ]
    top = largest(spread)
    means = [(m.mean * 255).round().byte() for m in moments]
    rows = [
        [Cell(picture(mean), map_.word) for mean, map_ in zip(means, spread, strict=True)],
        [Cell(grey_map(map_, top), map_.word) for map_ in spread],
    ]
    note = (
        f"Over {len(states[0].seeds)} seeds. Mean: of all pictures. Spread: how much each pixel varies "
        "from seed to seed, on one scale; black is what the prompt decides alone."
    )
    foot = scale_bar(top, "colour (0 to 1), standard deviation")
    names = ["mean", "spread"]
    figure = sheet("What the seed leaves open", rows, notes=[note], row_labels=names, foot=foot)
    results.picture("variance.png", figure)
    table = [
        (text, seed, float(score), float(m), float(d))
        for text, state, (means_, deviations) in zip(args.prompt, states, curves, strict=True)
        for seed, score, m, d in zip(state.seeds, state.scores, means_, deviations, strict=True)
    ]
    header = ("prompt", "seed", "score", "running mean", "running standard deviation")
    results.table("scores.csv", header, table)
    name = json.loads(fingerprint(session, args))["clip"]
    results.settings(session.recipe, prompts=args.prompt, seeds=args.seeds, clip=name)
