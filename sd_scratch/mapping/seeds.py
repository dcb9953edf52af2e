"""What the noise alone decides: one prompt from many seeds, their scores, their mean and their spread.

Means and variances are kept as they run (Chan, Golub & LeVeque 1979, equations 2.1 and 2.2), so that
a run can stop, go on later, be shared by several processes, and never hold more than a batch of pictures.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from sd_scratch.checkpoints.clip import ClipModel
from sd_scratch.mapping.charts import Curve, line_chart
from sd_scratch.mapping.clip_score import clip_scores
from sd_scratch.mapping.drawing import PAPER, Cell, dark, grey_map, hues, picture, scale_bar, sheet
from sd_scratch.mapping.maps import Map, largest
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.mapping.report import Report, Table
from sd_scratch.mapping.state import State
from sd_scratch.pictures.pixels import to_bytes
from sd_scratch.pipeline.prompt import Prompt

OPENAI = "openai/clip-vit-base-patch32"


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and summed squared deviations of tensors of one shape, in float64."""

    count: int
    mean: Tensor = field(repr=False)
    squares: Tensor = field(repr=False)

    @classmethod
    def of(cls, values: Tensor) -> "Moments":
        """Of ``[n, ...]``."""
        values = values.double()
        mean = values.mean(dim=0)
        return cls(len(values), mean, (values - mean).square().sum(dim=0))

    def merged(self, other: "Moments | None") -> "Moments":
        """Of both together."""
        if other is None:
            return self
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = apart.square() * (self.count * other.count / count)
        return Moments(count, mean, self.squares + other.squares + between)

    @property
    def variance(self) -> Tensor:
        """The unbiased estimate; zero of a single value."""
        return self.squares / max(self.count - 1, 1)


def running(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (unbiased; 0 of one value) of the first 1, 2, ... n of ``[n]``
    values: two tensors ``[n]``."""
    values = values.double()
    means, deviations = [], []
    for end in range(1, len(values) + 1):
        moments = Moments.of(values[:end])
        means.append(moments.mean)
        deviations.append(moments.variance.sqrt())
    empty = values.new_zeros(0)
    return torch.stack(means) if means else empty, torch.stack(deviations) if means else empty


@dataclass(frozen=True, eq=False)
class Seeds:
    """What is known of one prompt.

    Attributes:
        seeds: those that pictures were made from.
        scores: ``[seeds]``, how well each picture fits; NaN without CLIP.
        moments: of the pictures' colours, ``[3, H, W]``; None without pictures.
    """

    seeds: tuple[int, ...] = ()
    scores: Tensor = field(default_factory=lambda: torch.zeros(0), repr=False)
    moments: Moments | None = None

    def merged(self, other: "Seeds") -> "Seeds":
        """Both together, in the order of the seeds."""
        seeds, scores = (*self.seeds, *other.seeds), torch.cat([self.scores, other.scores])
        moments = self.moments.merged(other.moments) if self.moments else other.moments
        order = sorted(range(len(seeds)), key=seeds.__getitem__)
        return Seeds(tuple(seeds[i] for i in order), scores[order], moments)


def draw_seeds(
    rendering: Rendering,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    clip: ClipModel | None,
    state: State | None = None,
    *,
    share: tuple[int, int] = (0, 1),
) -> list[Seeds] | None:
    """Make a picture of each prompt from each seed, and score it.

    With a `state` every batch is kept, and what is there already is not made again. `share` is this
    process' number and how many there are that share the state: each takes its own seeds. Returns what
    all of them found, or None as long as others are not done.
    """
    rank, processes = share
    missing = missing_seeds(prompts, seeds, state, share)
    own = [Seeds() for _ in prompts]
    for i, (prompt, some) in enumerate(zip(prompts, missing, strict=True)):
        name = f"{_name(prompt)}-{rank}"
        own[i] = _read(state, name)
        for part in rendering.batches(len(some)):
            own[i] = own[i].merged(_draw(rendering, prompt, some[part], clip))
            if state is not None:
                _write(state, name, own[i])
    found_by_all = own if state is None else [known_seeds(state, prompt) for prompt in prompts]
    done = all(set(seeds) <= set(found.seeds) for found in found_by_all)
    return found_by_all if done else None


def missing_seeds(
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    state: State | None,
    share: tuple[int, int] = (0, 1),
) -> list[list[int]]:
    """For each prompt, the seeds of this process' share of which there is no picture yet."""
    mine = seeds[share[0] :: share[1]]  # fixed, however far the other processes are
    known = [set(known_seeds(state, prompt).seeds) if state else set[int]() for prompt in prompts]
    return [[seed for seed in mine if seed not in have] for have in known]


def known_seeds(state: State, prompt: Prompt) -> Seeds:
    """What all processes have found of a prompt."""
    found = Seeds()
    for name in state.names(_name(prompt)):
        found = found.merged(_read(state, name))
    return found


def _draw(
    rendering: Rendering, prompt: Prompt, seeds: Sequence[int], clip: ClipModel | None
) -> Seeds:
    pixels = rendering.pixels([prompt] * len(seeds), seeds)
    scores = torch.full((len(seeds),), float("nan"))
    if clip is not None:
        scores = clip_scores(clip, pixels, prompt.text)
    return Seeds(tuple(seeds), scores, Moments.of(pixels.double() / 255))


def _name(prompt: Prompt) -> str:
    return hashlib.sha256(prompt.text.encode()).hexdigest()[:12]


def _read(state: State | None, name: str) -> Seeds:
    part = None if state is None else state.read(name)
    if part is None:
        return Seeds()
    seeds = part["seeds"].tolist()
    return Seeds(tuple(seeds), part["scores"], Moments(len(seeds), part["mean"], part["squares"]))


def _write(state: State, name: str, found: Seeds) -> None:
    """One file for all of it, so that a run that is killed has either a batch or nothing of it."""
    assert found.moments is not None
    tensors = {"seeds": torch.tensor(found.seeds), "scores": found.scores}
    state.write(name, tensors | {"mean": found.moments.mean, "squares": found.moments.squares})


# The report ---------------------------------------------------------------------------------


def seeds_report(
    prompts: Sequence[Prompt], found: Sequence[Seeds], clip: ClipModel | None
) -> Report:
    """Scores as they run, the mean picture and the spread of every pixel, for each prompt."""
    texts = [prompt.text for prompt in prompts]
    curves = [running(each.scores) for each in found]
    rows = [
        (text, seed, float(score), float(mean), float(deviation))
        for text, each, (means, deviations) in zip(texts, found, curves, strict=True)
        for seed, score, mean, deviation in zip(
            each.seeds, each.scores, means, deviations, strict=True
        )
    ]
    header = ("prompt", "seed", "score", "running mean", "running standard deviation")
    figures = {} if clip is None else {"scores": _scores(texts, curves, clip)}
    figures["variance"] = _variance(texts, found)
    return Report(figures, tables={"scores": Table(header, rows)}, facts={"prompts": texts})


def _scores(
    texts: Sequence[str], curves: Sequence[tuple[Tensor, Tensor]], clip: ClipModel
) -> Image.Image:
    colours = hues(len(texts))
    lines = [Curve(m.tolist(), d.tolist(), c) for (m, d), c in zip(curves, colours, strict=True)]
    chart = Cell(line_chart(lines, "seeds", "CLIP score"), enlarge=False)
    legend = [
        [
            Cell(
                Image.new("RGB", (640, 1), PAPER),
                f"{float(mean[-1]):.2f} ± {float(deviation[-1]):.2f}   {text}",
                colour,
                enlarge=False,
            )
        ]
        for text, colour, (mean, deviation) in zip(texts, colours, curves, strict=True)
    ]
    scale = float(clip.network.logit_scale.exp())
    usual = "; pictures that fit have about 25 to 35" if clip.name == OPENAI else ""
    note = (
        "Lines: the mean score of the first pictures; bands: one standard deviation of the scores "
        f"to both sides. A score says how well a picture fits its prompt by {clip.name}: the cosine of "
        f"their vectors times {scale:.0f}, the scale that it learnt{usual}. Before the prompts: the last "
        "mean and deviation."
    )
    return sheet("How much the seed decides", [[chart], *legend], notes=[note])


def _variance(texts: Sequence[str], found: Sequence[Seeds]) -> Image.Image:
    moments = [each.moments for each in found if each.moments is not None]
    spread = [
        Map(
            each.variance.mean(dim=0).sqrt().float(),
            (each.mean.shape[2], each.mean.shape[1]),
            text,
            "standard deviation over seeds, root mean square of the colours",
            "colour (0 to 1)",
        )
        for each, text in zip(moments, texts, strict=True)
    ]
    top = largest(spread)
    rows = [
        [Cell(picture(to_bytes(m.mean)), text) for m, text in zip(moments, texts, strict=True)],
        [Cell(grey_map(map_, top), map_.word) for map_ in spread],
    ]
    note = (
        f"Over {len(found[0].seeds)} seeds. Mean: of all pictures. Spread: how much each pixel varies "
        "from seed to seed, on one scale; black is what the prompt decides alone."
    )
    foot = scale_bar(top, "colour (0 to 1), standard deviation")
    notes = [note, *dark(spread, top)]
    labels = ["mean", "spread"]
    return sheet("What the seed leaves open", rows, notes=notes, row_labels=labels, foot=foot)
