"""What each approximation of `--fast` costs and saves: the tables of docs/performance.md.

    python scripts/fast_measure.py fast.json --count 200      # the shipped model: time, PSNR, oracle
    python scripts/fast_measure.py fast.json --sd15           # kinds of calls at SD 1.5's size, random weights
    python scripts/fast_measure.py fast.json --table

Times are `time.process_time` of one thread, exact and fast in turn.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from scenes_steps import whole
from torch import Tensor

import sd_scratch as sd
from sd_scratch.checkpoints.load import empty_components
from sd_scratch.config import SD15
from sd_scratch.files import write_file
from sd_scratch.pipeline.branches import Scales
from sd_scratch.pipeline.fast import read_fast
from sd_scratch.pipeline.fast.plan import FastRun, Planned
from sd_scratch.scenes import oracle
from sd_scratch.scenes.evaluate import interval, make_checks

CELLS = (
    "interval",
    "interval:low=0.28:high=inf",
    "delta",
    "deepcache:order=0",
    "deepcache",
    "tgate",
    "tome",
    "deepcache,delta",
    "deepcache:every=4,delta:every=4",
    "deepcache:every=4,delta:every=4,interval:low=0.28:high=inf",
)
BATCH = 20
SCENES_STEPS = 25  # where there is something to leave out
STEPS = (25, 50)  # of the plans that the calls of SD 1.5's size are added up for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="a JSON file, made or gone on with")
    parser.add_argument("--count", type=int, default=0, help="pictures a cell")
    parser.add_argument("--sd15", action="store_true", help="time calls at full size")
    parser.add_argument("--table", action="store_true", help="print the tables")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(args.results.read_text()) if args.results.exists() else {}
    if args.count:
        pictures(found, args.count, args.results)
    if args.sd15:
        found["sd15"] = calls_of_full_size()
        write_file(args.results, json.dumps(found).encode(), overwrite=True)
    if args.table:
        print(table(found))


def pictures(found: dict[str, Any], count: int, path: Path) -> None:
    """Make `count` pictures exactly and by each cell: seconds a batch, what is right, squared errors."""
    model = sd.load()
    checks = make_checks(200)
    order = torch.randperm(len(checks), generator=torch.Generator().manual_seed(0)).tolist()
    rows = {cell: found.setdefault(cell, empty()) for cell in ("exact", *CELLS)}
    for first in range(len(rows[CELLS[-1]]["right"]), count, BATCH):
        part = [checks[i] for i in order[first : first + BATCH]]
        prompts = [model.prompt(check.prompt) for check in part]
        noise = model.noise(list(range(first, first + len(part))))
        true: Tensor | None = None
        for cell, row in rows.items():
            start = time.process_time()
            fast = "" if cell == "exact" else cell
            made = model.generate(prompts, noise, steps=SCENES_STEPS, fast=fast)
            row["seconds"].append(time.process_time() - start)
            image = made.decode()
            true = image if true is None else true
            row["errors"] += (image - true).square().mean(dim=(1, 2, 3)).tolist()
            row["right"] += [
                int(whole(*pair)) for pair in zip(oracle.read(image), part, strict=True)
            ]
        write_file(path, json.dumps(found).encode(), overwrite=True)


def empty() -> dict[str, list[float]]:
    return {"seconds": [], "right": [], "errors": []}


@torch.no_grad()
def calls_of_full_size(repeats: int = 3) -> dict[str, float]:
    """Median seconds of the kinds of calls that plans are made of, at 512x512."""
    unet = empty_components(SD15).unet.to_empty(device="cpu")
    for parameter in unet.parameters():
        parameter.requires_grad_(False).normal_(0.0, 0.02)
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, context = torch.randn(2, 4, 64, 64), torch.randn(2, 77, 768)
    kinds = {
        "whole, both branches": ("", 2, Planned(("uncond", "cond"))),
        "whole, one branch": ("", 1, Planned(("cond",))),
        "last layers, both branches": ("deepcache", 2, Planned(("uncond", "cond"), deep=False)),
        "last layers, one branch": ("deepcache", 1, Planned(("cond",), deep=False)),
        "whole, both branches, merged": ("tome", 2, Planned(("uncond", "cond"))),
        "whole, one branch, settled": ("tgate", 1, Planned(("cond",), settled=True)),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind, (fast, batch, planned) in kinds.items():
            call = one_call(unet, fast, planned, x[:batch], context[:batch])
            start = time.process_time()
            call()
            seconds[kind].append(time.process_time() - start)
    return {kind: median(values) for kind, values in seconds.items()}


def one_call(
    unet: Any, fast: str, planned: Planned, x: Tensor, context: Tensor
) -> Callable[[], Tensor]:
    """A call of the U-Net as a plan has it, its listeners at work."""
    from sd_scratch.tensors import Taps

    run = FastRun(read_fast(fast), unet, Scales(7.5), [1.0])
    run.plan = (planned,)
    width = SD15.unet.block_out_channels[0]
    for branch in planned.branches:
        run.below[branch] = {0: torch.randn(1, width, 64, 64)}
    if planned.settled:
        for name in run._kept.names:
            place = name.removeprefix("unet.").removesuffix(".attn2.out")
            channels = unet.get_submodule(place).norm1.normalized_shape[0]
            side = 64 * width // channels if channels < 1280 else 16
            side = 8 if "mid_block" in name else side
            run._kept.kept[name] = torch.randn(1, side * side, channels)
    taps = Taps({"unet": unet}, lambda roots, hw: None)
    t = torch.full((len(x),), 500.0)

    def call() -> Tensor:
        with taps.joined(*run.members(0, (64, 64))), taps.calling(0, 500.0, 1.0, planned.branches):
            return run.ask(0, x, t, context, ())

    return call


def table(found: dict[str, Any]) -> str:
    """The shipped model's rows, then full size's."""
    exact = found["exact"]
    lines = [
        "| `--fast` | time of the steps | PSNR: median, worst tenth | oracle | less the exact one's |",
        "|---|---|---|---|---|",
        f"| nothing | 1 | | {_share(exact['right'])} | |",
    ]
    for cell in CELLS:
        row = found.get(cell)
        if not row or not row["right"]:
            continue
        ratio = median(row["seconds"]) / median(exact["seconds"])
        psnr = sorted(10 * math.log10(4 / max(error, 1e-12)) for error in row["errors"])
        gaps = [a - b for a, b in zip(row["right"], exact["right"], strict=True)]
        mean = sum(gaps) / len(gaps)
        half = 1.96 * math.sqrt(sum((g - mean) ** 2 for g in gaps)) / len(gaps)
        lines.append(
            f"| `{cell}` | {ratio:.2f} | {median(psnr):.1f}, {psnr[len(psnr) // 10]:.1f} dB |"
            f" {_share(row['right'])} | {100 * mean:+.1f} ({100 * (mean - half):+.1f} to"
            f" {100 * (mean + half):+.1f}) |"
        )
    lines.append(f"\n{len(exact['right'])} pictures a cell.")
    if "sd15" in found:
        lines += ["", *_full_size(found["sd15"])]
    return "\n".join(lines)


def _full_size(seconds: dict[str, float]) -> list[str]:
    one = seconds["whole, both branches"]
    lines = ["| one call, 512x512 | of a whole guided one |", "|---|---|"]
    lines += [f"| {kind} | {value / one:.2f} |" for kind, value in seconds.items()]
    names = {(True, 2): "whole, both branches", (True, 1): "whole, one branch"}
    names |= {(False, 2): "last layers, both branches", (False, 1): "last layers, one branch"}
    unet = empty_components(SD15).unet
    schedule = sd.load().schedule
    lines += [
        "",
        "| `--fast` | " + " | ".join(f"{n} steps of ddim" for n in STEPS) + " |",
        "|---|---|---|",
    ]
    for cell in CELLS:
        if any(word in cell for word in ("tome", "tgate")):
            continue
        shares = []
        for steps in STEPS:
            sigmas = [schedule.sigma_at(t) for t in schedule.timesteps(steps)]
            plan = FastRun(read_fast(cell), unet, Scales(7.5), sigmas).plan
            total = sum(seconds[names[now.deep, len(now.branches)]] for now in plan)
            shares.append(f"{total / one / steps:.2f}")
        lines.append(f"| `{cell}` | " + " | ".join(shares) + " |")
    return lines


def _share(right: list[int]) -> str:
    share = sum(right) / len(right)
    low, high = interval(share, len(right))
    return f"{100 * share:.1f} ({100 * low:.0f} to {100 * high:.0f})"


if __name__ == "__main__":
    main()
