"""Steps against what comes out: every sampler of the shipped model at several numbers of U-Net calls.

    python scripts/scenes_steps.py steps.json --count 200          # goes on where it stopped
    python scripts/scenes_steps.py steps.json --table              # the table of docs/samplers.md

The same prompts and seeds for every cell; the oracle says which pictures have all that the prompt asks for.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import sd_scratch as sd
from sd_scratch.files import write_file
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.scenes import oracle
from sd_scratch.scenes.evaluate import Check, interval, make_checks

SAMPLERS = (
    ("ddim", None),
    ("pndm", None),
    ("dpmpp_2m", None),
    ("dpmpp_2m", "karras"),
    ("unipc", None),
    ("euler", None),
    ("euler_a", None),
    ("deis", None),
    ("lms", None),
    ("dpmpp_2m_sde", None),
    ("ddim", "trailing"),
    ("ddpm", None),
)
CALLS = (4, 6, 8, 10, 15, 25)
BATCH = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="a JSON file, made or gone on with")
    parser.add_argument("--count", type=int, default=60, help="pictures a cell (default 60)")
    parser.add_argument("--table", action="store_true", help="print the table and stop")
    args = parser.parse_args()
    found = json.loads(args.results.read_text()) if args.results.exists() else {}
    if args.table:
        print(table(found))
        return
    model = sd.load()
    # In an order of its own: the first so many prompts are of every part, whatever their number.
    checks = make_checks(200)
    order = torch.randperm(len(checks), generator=torch.Generator().manual_seed(0)).tolist()
    checks = [checks[i] for i in order]
    for calls in CALLS:
        for sampler, schedule in SAMPLERS:
            steps = steps_of(model, sampler, schedule, calls)
            if steps is None:
                continue
            name = f"{sampler} {schedule or ''}".strip()
            right = found.setdefault(f"{name}|{calls}", [])
            while len(right) < min(args.count, len(checks)):
                first = len(right)
                part = checks[first : min(first + BATCH, args.count)]
                right += judge(model, part, first, sampler=sampler, schedule=schedule, steps=steps)
                write_file(args.results, json.dumps(found).encode(), overwrite=True)
    print(table(found))


def steps_of(model: StableDiffusion, sampler: str, schedule: str | None, calls: int) -> int | None:
    """How many steps of a sampler take so many calls; None where no number does."""
    ways = range(1, calls + 1)
    return next((n for n in ways if model.way(sampler, n, schedule).calls == calls), None)


def judge(model: StableDiffusion, checks: list[Check], first: int, **settings: Any) -> list[int]:
    """For each prompt, 1 where its picture has all that it asks for; seeds are counted from `first`."""
    seeds = range(first, first + len(checks))
    prompts = [model.prompt(check.prompt) for check in checks]
    pictures = model.generate(prompts, model.noise(list(seeds)), **settings).decode()
    readings = oracle.read(pictures)
    return [int(whole(*pair)) for pair in zip(readings, checks, strict=True)]


def whole(reading: oracle.Reading, check: Check) -> bool:
    """Whether a picture has all that its prompt says; the place counts where it is named."""
    right = oracle.agreement(reading, check.scene)
    if "place" not in check.part:
        right.pop("place", None)
    if check.scene.relation is not None:
        right.setdefault("relation", False)
    return all(right.values())


def table(found: dict[str, list[int]]) -> str:
    """One row a sampler, one column a number of calls: per cent, with Wilson's interval."""
    names = list(dict.fromkeys(key.partition("|")[0] for key in found))
    lines = [
        "| sampler | " + " | ".join(f"{calls} calls" for calls in CALLS) + " |",
        "|---" * (len(CALLS) + 1) + "|",
    ]
    for name in names:
        cells = []
        for calls in CALLS:
            right = found.get(f"{name}|{calls}")
            cell = ""
            if right:
                share = sum(right) / len(right)
                low, high = interval(share, len(right))
                cell = f"{100 * share:.0f} ({100 * low:.0f} to {100 * high:.0f})"
            cells.append(cell)
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    counts = sorted({len(right) for right in found.values()})
    return "\n".join([*lines, "", f"Pictures a cell: {', '.join(map(str, counts))}."])


if __name__ == "__main__":
    main()
