"""Several processes that train one model, each with its share of every batch.

``torchrun --nproc-per-node 2 -m sd_scratch train ...`` starts them. Every process draws the random
numbers of the whole batch and uses those of its own rows, and gradients are averaged over all: the
model that comes out is the one that a single process would have made of the same batches, up to
rounding. The first process alone writes files.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.pipeline.device import find_device
from sd_scratch.stop import Stop

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Team:
    """This process's place among those that train together; by default it is alone."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch, on its device."""
        return batch[self.rank :: self.size].to(self.device, non_blocking=True)

    def check_batch(self, batch: int) -> None:
        """Raise `ScratchError` unless all processes get equally many rows."""
        if batch % self.size:
            raise UsageError(
                f"a batch of {batch} cannot be shared by {self.size} processes"
                " - start a number of them that divides it"
            )

    def parallel(self, model: nn.Module) -> nn.Module:
        """`model`, with gradients that are averaged over all processes."""
        if self.size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)

    def gather(self, rows: Tensor) -> Tensor:
        """The whole batch, in order, from every process's rows of it; gradients flow back."""
        if self.size == 1:
            return rows
        from torch.distributed.nn.functional import all_gather

        parts = all_gather(rows.contiguous())  # type: ignore[no-untyped-call]
        return torch.stack(list(parts), dim=1).flatten(0, 1)

    def mean(self, x: Tensor) -> float:
        """The mean of a number over all processes."""
        if self.size > 1:
            x = x.detach().clone()
            dist.all_reduce(x)
        return float(x.detach()) / self.size

    def clock(self) -> float:
        """The first process's time, so that all end at the same step."""
        if self.size == 1:
            return time.monotonic()
        now = torch.tensor(time.monotonic(), dtype=torch.float64, device=self.device)
        dist.broadcast(now, src=0)
        return float(now)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Let the first process through before the others, which only read the files that it makes.
        Where it fails, they raise `ScratchError` instead of waiting for ever."""
        if self.size > 1 and not self.leads and self._leader_failed(False):
            raise ScratchError("the first process failed - see what it said")
        failed = True
        try:
            yield
            failed = False
        finally:
            if self.size > 1 and self.leads:
                self._leader_failed(failed)

    def _leader_failed(self, failed: bool) -> bool:
        """Meet all others here, and hear from the first whether it failed."""
        return self.mean(torch.tensor(float(failed), device=self.device)) > 0

    def stop(self) -> Stop:
        return _SharedStop(self) if self.size > 1 else Stop()


class _SharedStop(Stop):
    """All processes stop after the step in which one of them was asked to."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._mine = False
        super().__init__()

    @property
    def asked(self) -> bool:
        mine = torch.tensor(float(self._mine), device=self._team.device)
        return self._team.mean(mine) > 0

    @asked.setter
    def asked(self, asked: bool) -> None:
        self._mine = asked


@contextmanager
def join_team(device: str | None = None) -> Iterator[Team]:
    """The team that ``torchrun`` started this process for, or a team of one.

    `device` is "cpu" or "cuda"; by default a GPU where there is one. Raises `ScratchError` for a
    device that is not there.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    find_device(device)
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if size == 1:
        yield Team(device=torch.device(device))
        return
    on_gpu = device.startswith("cuda")
    place = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if on_gpu else device)
    if on_gpu:
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Team(rank, size, place)
    finally:
        dist.destroy_process_group()
