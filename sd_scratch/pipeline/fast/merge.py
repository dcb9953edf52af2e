"""Token merging: the most alike places of a feature map, merged and parted."""

import torch
import torch.nn.functional as F
from torch import Tensor


class Match:
    """A matching of places ``[B, N, C]`` of a map of `hw` for merging.

    One place of every 2x2 stays (paper, section 3.2, there at random, here the upper left). Of the others,
    the `ratio` of all that are most like one of these, by the cosine, are merged into it.
    """

    def __init__(self, x: Tensor, hw: tuple[int, int], ratio: float) -> None:
        row, column = torch.meshgrid(*(torch.arange(n) for n in hw), indexing="ij")
        stays = ((row % 2 == 0) & (column % 2 == 0)).flatten()
        self.to = stays.nonzero()[:, 0].to(x.device)  # [D]
        self.others = (~stays).nonzero()[:, 0].to(x.device)  # [S]
        unit = F.normalize(x.detach(), dim=-1)
        likeness, nearest = (unit[:, self.others] @ unit[:, self.to].transpose(1, 2)).max(dim=-1)
        count = min(int(ratio * len(stays)), len(self.others))
        order = likeness.argsort(dim=-1, descending=True, stable=True)
        self.gone, self.left = order[:, :count, None], order[:, count:, None]  # among the others
        self.into = nearest[..., None].gather(1, self.gone)  # [B, count, 1], among those that stay

    def merge(self, x: Tensor) -> Tensor:
        """``[B, N, C]`` -> ``[B, N - count, C]``: the unmerged places, then those that stay, each the mean of
        its merged places."""
        others, width = x[:, self.others], x.shape[-1]
        gone = others.gather(1, self.gone.expand(-1, -1, width))
        left = others.gather(1, self.left.expand(-1, -1, width))
        into = self.into.expand(-1, -1, width)
        return torch.cat([left, x[:, self.to].scatter_reduce(1, into, gone, "mean")], dim=1)

    def part(self, y: Tensor) -> Tensor:
        """The inverse: merged places get the value of their mean."""
        width, count = y.shape[-1], self.left.shape[1]
        left, stays = y[:, :count], y[:, count:]
        others = y.new_empty(y.shape[0], len(self.others), width)
        others = others.scatter(1, self.left.expand(-1, -1, width), left)
        gone = stays.gather(1, self.into.expand(-1, -1, width))
        others = others.scatter(1, self.gone.expand(-1, -1, width), gone)
        whole = y.new_empty(y.shape[0], len(self.to) + len(self.others), width)
        whole[:, self.to], whole[:, self.others] = stays, others
        return whole
