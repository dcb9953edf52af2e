"""The score's field, and a sampler's path in it, where both can be seen: in two dimensions.

The data are some points, each a little blurred: a mixture of Gaussians of width s around mu_k. With
a = sqrt(alpha_bar) and v = a^2 s^2 + 1 - alpha_bar, what the forward process makes of it is known:

    p_t(x)    = mean over k of N(x; a mu_k, v I)
    score     = grad log p_t(x) = sum over k of r_k(x) (a mu_k - x) / v       r_k: each blob's share of p_t(x)
    eps(x, t) = -sqrt(1 - alpha_bar) score                                    Song et al. 2021, arXiv:2011.13456

A network learns this eps; here it is exact, so that what a sampler does wrong is the sampler's own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sd_scratch.config import SD15
from sd_scratch.diffusion.samplers import Step, get_sampler
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.errors import UsageError
from sd_scratch.limits import read_number
from sd_scratch.mapping.drawing import Cell, Colour, sheet
from sd_scratch.mapping.report import Report, Table

POINTS = ((0.0, 1.3), (1.2, -0.7), (-1.2, -0.7))
WIDTH = 0.08
REACH = 2.6  # the panels go from -REACH to REACH
SIDE, DETAIL = 232, 2  # pixels of a panel, and how many times as fine it is drawn
ARROWS = 13  # across and down
ARROW: Colour = (70, 110, 170)
PATH: Colour = (200, 40, 40)
PANELS = 5


@dataclass(frozen=True, eq=False)
class Blobs:
    """Blurred points in the plane: ``centres [k, 2]``, all of one width and weight."""

    centres: Tensor
    width: float = WIDTH

    def log_density(self, x: Tensor, alpha_bar: float) -> Tensor:
        """log p_t at ``[n, 2]``: ``[n]``."""
        away, variance = self._away(x, alpha_bar)
        each = -away.square().sum(dim=-1) / (2 * variance) - math.log(2 * math.pi * variance)
        return each.logsumexp(dim=1) - math.log(len(self.centres))

    def score(self, x: Tensor, alpha_bar: float) -> Tensor:
        """The gradient of `log_density`: ``[n, 2]``."""
        away, variance = self._away(x, alpha_bar)
        shares = (-away.square().sum(dim=-1) / (2 * variance)).softmax(dim=1)
        return (shares[..., None] * away).sum(dim=1) / variance

    def eps(self, x: Tensor, alpha_bar: float) -> Tensor:
        """What a perfect network predicts."""
        return -math.sqrt(1 - alpha_bar) * self.score(x, alpha_bar)

    def _away(self, x: Tensor, alpha_bar: float) -> tuple[Tensor, float]:
        variance = alpha_bar * self.width**2 + 1 - alpha_bar
        return math.sqrt(alpha_bar) * self.centres.to(x) - x[:, None], variance


def make_blobs(points: Sequence[tuple[float, float]], width: float = WIDTH) -> Blobs:
    """Raises UsageError without a point, and for one that the panels do not show."""
    if not points:
        raise UsageError("the field needs a point at least, such as 0:1")
    for point in points:
        if not all(abs(value) <= REACH for value in point):
            raise UsageError(
                f"the point {point[0]:g}:{point[1]:g} lies outside of -{REACH}..{REACH}"
            )
    return Blobs(torch.tensor(points, dtype=torch.float32), width)


def read_points(texts: Sequence[str]) -> list[tuple[float, float]]:
    """``0:1.3`` is a point. Raises UsageError for what is none."""
    points = []
    for text in texts:
        x, y = (read_number(part) for part in text.partition(":")[::2])
        if x is None or y is None:
            raise UsageError(f"'{text}' is no point - write X:Y, such as 0:1.3")
        points.append((x, y))
    return points


def run_sampler(blobs: Blobs, sampler: str, steps: int, paths: int, seed: int = 0) -> list[Step]:
    """Take `paths` samples ``[paths, 2]`` from noise to the blobs, on the schedule of SD 1.x."""
    schedule = Schedule(SD15.schedule)
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.randn(paths, 2, generator=generator)

    def predict(x_t: Tensor, t: float) -> Tensor:
        return blobs.eps(x_t, 1 / (1 + schedule.sigma_at(t) ** 2))

    chosen = get_sampler(sampler)
    ladder = chosen.ladder(schedule, steps)
    return list(chosen.run(predict, ladder.noise_scale * draw(), ladder, draw))


def field_report(
    blobs: Blobs, samplers: Sequence[str], steps: int = 25, paths: int = 12, seed: int = 0
) -> Report:
    """The field at some steps (across) with the samples' paths so far, a row for each sampler."""
    rows, table, raw = [], [], {}
    for sampler in samplers:
        run = run_sampler(blobs, sampler, steps, paths, seed)
        way = torch.stack([*(step.x_t for step in run), run[-1].x_next])  # [steps + 1, paths, 2]
        few = sorted({round(i * (len(run) - 1) / (PANELS - 1)) for i in range(PANELS)})
        panels = [
            Cell(
                _panel(blobs, run[i].alpha_bar, way[: i + 1]),
                f"step {i + 1}, t {run[i].t:.0f}",
                enlarge=False,
            )
            for i in few
        ]
        rows.append([*panels, Cell(_panel(blobs, 1.0, way), "the end", enlarge=False)])
        ends = (way[-1][:, None] - blobs.centres).norm(dim=-1).min(dim=1).values
        lengths = (way[1:] - way[:-1]).norm(dim=-1).sum(dim=0)
        near = float((ends < 3 * blobs.width).float().mean())
        table.append((sampler, steps, float(ends.mean()), near, float(lengths.mean())))
        raw[sampler] = way
    header = (
        "sampler",
        "steps",
        "distance to the nearest point",
        "within three widths",
        "length of a path",
    )
    figure = sheet(
        "The score's field, and samplers' paths in it",
        rows,
        notes=[
            "Grey: how likely the forward process is to be at a place at that step. Arrows: the score, "
            "which points to where it is likelier, the longest of a panel as long as the arrows are "
            "apart. Red: samples on their way from noise; every sampler begins with the same ones."
        ],
        row_labels=list(samplers),
        side=SIDE,
    )
    facts = {"points": blobs.centres.tolist(), "width": blobs.width, "samplers": list(samplers)}
    facts |= {"paths": paths}
    return Report(
        {"field": figure},
        tables={"field": Table(header, table)},
        tensors={"paths": raw},
        facts=facts,
    )


def _panel(blobs: Blobs, alpha_bar: float, way: Tensor) -> Image.Image:
    """The density in grey, arrows of eps' length against it, and paths ``[steps, paths, 2]``."""
    side = SIDE * DETAIL

    def spot(place: Sequence[float]) -> tuple[float, float]:
        return (place[0] / REACH + 1) / 2 * side, (1 - place[1] / REACH) / 2 * side

    across = (torch.arange(SIDE) + 0.5) / SIDE * 2 * REACH - REACH
    grid = torch.stack(torch.meshgrid(across, -across, indexing="xy"), dim=-1).view(-1, 2)
    density = blobs.log_density(grid, alpha_bar).exp().view(SIDE, SIDE)
    shade = 255 - (density / density.max()).sqrt() * 150
    page = Image.fromarray(shade.numpy().astype(np.uint8)).convert("RGB").resize((side, side))
    draw = ImageDraw.Draw(page)
    coarse = (torch.arange(ARROWS) + 0.5) / ARROWS * 2 * REACH - REACH
    starts = torch.cartesian_prod(coarse, coarse)
    fields = blobs.score(starts, alpha_bar)
    fields = fields / fields.norm(dim=1).max().clamp(min=1e-9) * (1.7 * REACH / ARROWS)
    for start, arrow in zip(starts.tolist(), fields.tolist(), strict=True):
        _arrow(draw, spot(start), spot([start[0] + arrow[0], start[1] + arrow[1]]))
    for path in way.transpose(0, 1).tolist():
        points = [spot(place) for place in path]
        if len(points) > 1:
            draw.line(points, PATH, DETAIL)
        x, y = points[-1]
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), PATH)
    draw.rectangle((0, 0, side - 1, side - 1), None, (215, 215, 215))
    return page.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _arrow(draw: ImageDraw.ImageDraw, foot: tuple[float, float], head: tuple[float, float]) -> None:
    draw.line((*foot, *head), ARROW, DETAIL)
    length = math.dist(foot, head)
    if length < 6:
        return
    x, y = (head[0] - foot[0]) / length, (head[1] - foot[1]) / length
    for turn in (1, -1):
        back = (-x - turn * y, -y + turn * x)
        draw.line((*head, head[0] + 5 * back[0], head[1] + 5 * back[1]), ARROW, DETAIL)
