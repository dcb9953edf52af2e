"""What a training run trains, and what all such tasks have in common."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sd_scratch.errors import ScratchError
from sd_scratch.training.settings import TrainConfig
from sd_scratch.training.team import Team

EPOCH_SEEDS = 1_000_003  # more than there are epochs


class Task:
    """A network, its loss on batch number n, a look at what it can do, and a way to write it down.

    `result` is the folder, beside that of the states, into which `export` writes; empty where nothing is
    to be written. `per_epoch` is how many batches show all pictures once; None where none is seen twice.
    """

    model: nn.Module
    team = Team()
    result = ""
    per_epoch: int | None = None

    def __init__(
        self,
        model: nn.Module,
        train: TrainConfig,
        team: Team | None = None,
        *,
        called: nn.Module | None = None,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        """`called` is what the loss calls, where that is not `model` itself but has its parameters."""
        self.team = team or Team()
        self.team.check_batch(train.batch)
        self.train = train
        self.model = model.to(self.team.device, memory_format=layout)  # type: ignore[call-overload]
        self.parallel = self.team.parallel(called or self.model)

    def settings(self) -> dict[str, Any]:
        """What a state of this task fits: what JSON can hold."""
        raise NotImplementedError

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss on batch number `step`, and figures for the journal. All randomness that is not
        a function of `step` comes from `generator`."""
        raise NotImplementedError

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        """What the averaged `model` can do by now: figures for the journal, pictures on the disk."""
        raise NotImplementedError

    def export(self, model: nn.Module, folder: Path, step: int, seconds: float) -> None:
        """Write the averaged `model`, after so many steps and seconds, as others read it."""


class Shuffle:
    """Which of `count` rows make batch number n: every epoch in an order of its own. What is left over at
    its end is not used in it."""

    def __init__(self, count: int, batch: int, seed: int, source: str = "the data") -> None:
        if batch > count:
            raise ScratchError(
                f"{source} - {count:,} pictures are fewer than a batch of {batch} - use more pictures"
            )
        self.count, self.batch, self.seed = count, batch, seed
        self.per_epoch = count // batch
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def rows(self, step: int) -> Tensor:
        """The numbers of the rows in batch number `step`."""
        epoch, place = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * EPOCH_SEEDS + epoch)
            self._order = (epoch, torch.randperm(self.count, generator=generator))
        return self._order[1][place * self.batch : (place + 1) * self.batch]
