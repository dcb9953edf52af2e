"""All maps of a case's words, the baselines that know nothing of the word, and the truths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.mapping.adjustment import adjusted
from sd_scratch.mapping.faithfulness.attention import watched
from sd_scratch.mapping.faithfulness.cases import Case, Masks, read_masks
from sd_scratch.mapping.gradient import LAMBDA as STEP
from sd_scratch.mapping.gradient import exact_derivatives
from sd_scratch.mapping.heat import Heat
from sd_scratch.mapping.perturbation import LAMBDA as LOUDER
from sd_scratch.mapping.perturbation import difference
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.pictures.pixels import to_bytes
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.text.encoding import Word

ATTENTION, PERTURBATION, EXACT = "attention", "perturbation", "exact derivative"
FORWARD, CENTRAL = "forward difference", "central difference"
SWAPPED = "word swapped"  # a truth, which is measured against the mask and the other truth, too
OTHER_ATTENTION, OTHER_EXACT = "attention of another word", "derivative of another word"
CENTRE_WIDTH = 0.25  # standard deviation of the Gaussian, of the picture's side
BORDER = 3  # pixels of 64 along the edge that show the background


@dataclass(frozen=True, eq=False)
class Measured:
    """One case's picture and, for each of its targets, every map by name.

    Attributes:
        picture: ``[3, S, S]``, colours 0..1, not clamped.
        masks: where the asked things are in it.
        maps: one for each target: name -> ``[S, S]``, fp32, never scaled.
        errors: one for each target: how far the differences are from the exact derivative, relative to
            its norm, over all pixels and colours; none without truths.
    """

    case: Case
    picture: Tensor = field(repr=False)
    masks: Masks = field(repr=False)
    maps: tuple[dict[str, Tensor], ...] = field(repr=False)
    errors: tuple[dict[str, float], ...]


def measure(
    rendering: Rendering, cases: Sequence[Case], *, words: int = 2, truths: bool = True
) -> list[Measured]:
    """Make the pictures of some cases, and all maps of the first `words` of their targets.

    Without `truths` the swapped word and the exact derivative, the dearest of the maps, are left out.
    """
    model = rendering.model
    prompts = [model.prompt(case.prompt) for case in cases]
    seeds = [case.seed for case in cases]
    found = [
        [case.word(prompt, target) for target in (*case.targets[:words], *case.others[:words])]
        for case, prompt in zip(cases, prompts, strict=True)
    ]
    pictures, shares = watched(rendering, prompts, seeds, found)
    masks = read_masks(pictures, [case.scene for case in cases])

    rows = [(i, j) for i in range(len(cases)) for j in range(words)]
    variants: list[Prompt] = []
    for i, j in rows:
        variants += adjusted(prompts[i], found[i][j], [LOUDER, STEP, -STEP])
        variants += [model.prompt(cases[i].targets[j].swapped)] if truths else []
    each = len(variants) // len(rows)
    changed = rendering.colours(variants, [seeds[i] for i, _ in rows for _ in range(each)])
    derivatives = None
    if truths:
        _, derivatives = exact_derivatives(
            rendering,
            [prompts[i] for i, _ in rows],
            [found[i][j] for i, j in rows],
            [seeds[i] for i, _ in rows],
        )

    measured = []
    for i, case in enumerate(cases):
        heat = attention_maps(
            {name: share[i] for name, share in shares.items()},
            (pictures.shape[-2], pictures.shape[-1]),
        )
        maps: list[dict[str, Tensor]] = []
        errors: list[dict[str, float]] = []
        for j in range(words):
            row = i * words + j
            louder, upper, lower, *swapped = changed[row * each : (row + 1) * each]
            differences = finite_differences(pictures[i], upper, lower, prompts[i], found[i][j])
            own = {name: values[j] for name, values in heat.items()}
            own[PERTURBATION] = difference(to_bytes(louder), to_bytes(pictures[i])).float()
            own |= {name: values.norm(dim=0) for name, values in differences.items()}
            own |= baselines(pictures[i], case.index * len(case.targets) + j)
            own[OTHER_ATTENTION] = heat[ATTENTION][words + j]
            if derivatives is not None:
                true, other = derivatives[row], derivatives[i * words + (j + 1) % words]
                own[EXACT] = true.norm(dim=0)
                own[OTHER_EXACT] = other.norm(dim=0)
                own[SWAPPED] = (swapped[0].clamp(0, 1) - pictures[i].clamp(0, 1)).norm(dim=0)
                errors.append(
                    {n: float((d - true).norm() / true.norm()) for n, d in differences.items()}
                )
            maps.append(own)
        measured.append(Measured(case, pictures[i], masks[i], tuple(maps), tuple(errors)))
    return measured


def measured_pictures(words: int = 2, *, truths: bool = True) -> int:
    """How many pictures `measure` makes of one case; a derivative counts as one."""
    return 1 + words * (5 if truths else 3)


def attention_maps(shares: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
    """Shares by layer, ``[words, h, w]``, to maps ``[words, H, W]``, smoothly enlarged: the mean over all
    layers, and over those of one size (`Heat.maps`)."""
    count = next(iter(shares.values())).shape[0]
    columns = {name: share.permute(1, 2, 0)[None, None] for name, share in shares.items()}
    heat = Heat(columns, tuple(map(str, range(count))), (size[1], size[0]))
    layers: dict[str, list[str]] = {ATTENTION: list(shares)}
    for name, share in sorted(shares.items(), key=lambda item: -item[1].shape[-1]):
        layers.setdefault(f"{ATTENTION} {share.shape[-2]}x{share.shape[-1]}", []).append(name)
    maps = {}
    for name, chosen in layers.items():
        whole = torch.stack([map_.tensor for map_ in heat.maps(chosen)])
        maps[name] = F.interpolate(whole[None], size=size, mode="bilinear", align_corners=False)[0]
    return maps


def finite_differences(
    picture: Tensor, upper: Tensor, lower: Tensor, prompt: Prompt, word: Word
) -> dict[str, Tensor]:
    """Forward and central difference ``[3, H, W]``, from the pictures of the word times 1 + and
    1 - `STEP`."""
    step = STEP * float(prompt.context[:, list(word.positions)].norm())
    return {FORWARD: (upper - picture) / step, CENTRAL: (upper - lower) / (2 * step)}


def baselines(picture: Tensor, seed: int) -> dict[str, Tensor]:
    """Maps that no word had a part in: ``[H, W]`` each.

    ``uniform`` is 1 everywhere, ``centre`` a Gaussian, ``random`` noise, ``saliency`` the distance of
    each pixel's colour from the border's, ``edges`` the length of the colours' gradient.
    """
    height, width = picture.shape[-2:]
    rows, columns = ((torch.arange(n) + 0.5) / n - 0.5 for n in (height, width))
    squares = rows[:, None].square() + columns.square()
    generator = torch.Generator().manual_seed(seed)
    colours = picture.clamp(0, 1)
    border = torch.ones(height, width, dtype=torch.bool)
    b = max(1, BORDER * height // 64)
    border[b:-b, b:-b] = False
    ground = colours[:, border].median(dim=1).values
    down = F.pad(colours, (0, 0, 1, 1), mode="replicate").diff(dim=1)
    across = F.pad(colours, (1, 1, 0, 0), mode="replicate").diff(dim=2)
    down = (down[:, 1:] + down[:, :-1]) / 2
    across = (across[:, :, 1:] + across[:, :, :-1]) / 2
    return {
        "uniform": torch.ones(height, width),
        "centre": torch.exp(-squares / (2 * CENTRE_WIDTH**2)),
        "random": torch.rand(height, width, generator=generator),
        "saliency": (colours - ground[:, None, None]).norm(dim=0),
        "edges": torch.cat([down, across]).norm(dim=0),
    }
