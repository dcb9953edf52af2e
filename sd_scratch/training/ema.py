"""An exponential moving average of a network's weights, which samples better than the weights."""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """theta_ema <- d theta_ema + (1 - d) theta after every step (Ho et al. 2020, appendix B).

    The decay d grows as (1 + n) / (10 + n) with the number of steps n until it reaches `decay`, so
    that the average forgets the random start at once.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    def decay_at(self, step: int) -> float:
        """The decay used after step number `step`, counted from 0."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        mine: list[Tensor] = list(self.model.parameters())
        average = get_ema_multi_avg_fn(self.decay_at(step))  # type: ignore[no-untyped-call]
        average(mine, list(model.parameters()), step)
        for buffer, source in zip(self.model.buffers(), model.buffers(), strict=True):
            buffer.copy_(source)
