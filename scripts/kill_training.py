"""Kills a small training again and again, at random moments, and resumes it: is anything lost?

    python scripts/kill_training.py [--kills 200] [--damage 1000] [--seed 0]

Every process trains the same tiny network and is killed (SIGKILL) after a random time: while it starts,
steps, writes a state, writes its journal, or reads both again. Every third may write files of a few
kilobytes at most, as on a full disk. At the end the run has to equal one that was left alone: weights,
average and optimiser bit for bit, and in the journal every row once.

`--damage N` changes the newest of two states in N ways; the older one has to be taken each time.
"""

import argparse
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.errors import ScratchError
from sd_scratch.training.journal import read_journal
from sd_scratch.training.loop import train
from sd_scratch.training.settings import Budget, TrainConfig
from sd_scratch.training.state import load_state
from sd_scratch.training.task import Task

CONFIG = TrainConfig(batch=8, lr=1e-2, warmup_steps=3, log_steps=1, save_seconds=0)
LONGEST = 0.15  # seconds that a process lives
SMALL_FILES = (100, 20_000)  # bytes, where a disk is full


class Sum(Task):
    """Learns to add: a step takes a millisecond or two."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model: nn.Module = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    def settings(self) -> dict[str, Any]:
        return {"task": "sum"}

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x = torch.randn(CONFIG.batch, 4, generator=generator) + 0.001 * step
        return F.mse_loss(self.model(x)[:, 0], x.sum(dim=1)), {}

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        return {}


@dataclass
class Count:
    """What happened to the processes of a run."""

    killed: int = 0
    on_a_full_disk: int = 0
    ended: int = 0


def kill_and_resume(folder: Path, steps: int, kills: int, seed: int) -> Count:
    """Train `steps` steps into `folder` in processes of which `kills` are killed.

    The budget that a process sees is the whole, so that the learning rate is that of an uncut run; a run
    that is done before the last kill is resumed all the same.
    """
    rng, count = random.Random(seed), Count()
    while count.killed < kills or count.ended == 0:
        full = count.killed % 3 == 2 and count.killed < kills
        small = rng.randint(*SMALL_FILES) if full else None
        child = os.fork()
        if child == 0:
            run_and_exit(folder, steps, small)
        if count.killed < kills:
            time.sleep(rng.uniform(0, LONGEST))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            count.killed += 1
            count.on_a_full_disk += small is not None
        elif os.WEXITSTATUS(status) == 0:
            count.ended += 1
            if count.killed < kills:
                break  # done too soon: `steps` is too small for so many kills
        elif small is None:
            raise SystemExit("a process failed that had all the room in the world")
    return count


def run_and_exit(folder: Path, steps: int, small: int | None) -> None:
    """The life of one process."""
    code = 1
    try:
        if small is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (small, small))
        train(Sum(), CONFIG, Budget(steps=steps), folder, resume=True)
        code = 0
    except ScratchError as error:
        if small is None:
            print(error, file=sys.stderr)
    finally:
        os._exit(code)


def differences(a: Path, b: Path) -> list[str]:
    """In what two finished runs differ; the time that they took does not count."""
    one, two = load_state(a), load_state(b)
    assert one is not None and two is not None
    found = [f"step {one.step} and {two.step}"] if one.step != two.step else []
    for part in ("model", "ema"):
        first, second = getattr(one, part), getattr(two, part)
        found += [f"{part} {key}" for key in first if not torch.equal(first[key], second[key])]
    for number, moments in one.optimizer["state"].items():
        theirs = two.optimizer["state"][number]
        found += [
            f"optimiser {key}" for key in moments if not torch.equal(moments[key], theirs[key])
        ]
    rows = [
        [
            {key: row[key] for key in row if key != "minutes"}
            for row in read_journal(folder)
            if "loss" in row
        ]
        for folder in (a, b)
    ]
    numbers = [row["step"] for row in rows[1]]
    if len(set(numbers)) != len(numbers):
        found.append("rows are twice in the journal")
    found += [f"row {row['step']}" for row in rows[1] if row not in rows[0]]
    found += [f"no row {row['step']}" for row in rows[0] if row not in rows[1]]
    return found


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A file with a bit turned, cut short, made longer, or with bytes taken out, put in or changed."""
    place, some = rng.randrange(len(data)), rng.randbytes(rng.randint(1, 50))
    return rng.choice(
        [
            data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :],
            data[:place],
            data + some,
            data[:place] + data[place + len(some) :],
            data[:place] + some + data[place:],
            data[:place] + some + data[place + len(some) :],
        ]
    )


def take_the_older(folder: Path, times: int, seed: int) -> int:
    """How often the older of two states was taken, of `times` that the newest was damaged."""
    train(Sum(), CONFIG, Budget(steps=5), folder)
    newest, rng, taken = folder / "state-000000005.pt", random.Random(seed), 0
    data = newest.read_bytes()
    for _ in range(times):
        while (other := damaged(data, rng)) == data:
            pass
        newest.write_bytes(other)
        state = load_state(folder)
        taken += state is not None and state.step == 4
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--damage", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of the run (default: 12 for each kill)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    steps = args.steps or 12 * args.kills
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        count = kill_and_resume(cut, steps, args.kills, args.seed)
        train(Sum(), CONFIG, Budget(steps=steps), whole)
        found = differences(whole, cut)
        taken = (
            take_the_older(Path(folder) / "damaged", args.damage, args.seed) if args.damage else 0
        )
    print(f"{count.killed} kills ({count.on_a_full_disk} of them on a full disk), {steps} steps")
    print("; ".join(found[:10]) or "bit-equal, and every row of the journal once")
    if args.damage:
        print(f"{args.damage} damaged states: the older one was taken {taken} times")
    sys.exit(1 if found or count.killed < args.kills or taken < args.damage else 0)


if __name__ == "__main__":
    main()
