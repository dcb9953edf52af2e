"""Checks of the maps themselves, on some of the scenes, for their nouns: what happens when the map's
places are cut off from the word, when the U-Net knows nothing, and when another sampler runs."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.mapping.faithfulness.attention import kept, with_random_unet
from sd_scratch.mapping.faithfulness.maps import (
    ATTENTION,
    CENTRAL,
    EXACT,
    FORWARD,
    PERTURBATION,
    SWAPPED,
    Measured,
    measure,
    measured_pictures,
)
from sd_scratch.mapping.faithfulness.scores import Row, against_mask, rank_correlation
from sd_scratch.mapping.metrics import deletion_area, insertion_area
from sd_scratch.mapping.rendering import Rendering

SAMPLERS = ("ddim", "pndm", "lms")
CUT = (ATTENTION, PERTURBATION, EXACT, SWAPPED, "saliency", "random")
COMPARED = (ATTENTION, PERTURBATION, FORWARD, CENTRAL, "saliency", "edges", "centre")
PARTS = 4  # of the latent's places, cut off one after the other
LEAST = 1 / 255  # mean change of the picture below which a word's attention has no effect
RANDOM_SEED = 1


def check_pictures(sampler: str) -> int:
    """How many pictures all checks of one case take."""
    others = len([name for name in SAMPLERS if name != sampler])
    return 1 + len(CUT) * 2 * (PARTS - 1) + (others + 1) * measured_pictures(1, truths=False)


def cut(rendering: Rendering, measured: Measured) -> list[Row]:
    """Deletion and insertion: the noun's attention is taken from, or left to, the places where a map
    is largest, and the picture made again.

    The score of a set of places is the share of the word's effect that is left when only these may look
    at it: 1 - |p - p_all| / |p_none - p_all|, mean absolute differences of colours. No row where all
    of the word's attention changes the picture by less than `LEAST`.
    """
    model, case = rendering.model, measured.case
    prompt = model.prompt(case.prompt)
    word = case.word(prompt, case.targets[0])
    height, width = measured.picture.shape[-2:]
    h, w = model.noise(case.seed, width, height).latent.shape[-2:]
    maps = {name: _cells(measured.maps[0][name], (h, w)) for name in CUT}

    wanted: list[Tensor] = [torch.zeros(h, w, dtype=torch.bool)]
    for values in maps.values():
        for area in (deletion_area, insertion_area):
            area(values, lambda places: _note(wanted, places), PARTS)
    inner = [wanted[0], *(places for places in wanted if places.any() and not places.all())]
    pictures = kept(rendering, prompt, case.seed, word, torch.stack(inner)).clamp(0, 1)
    away = (pictures - measured.picture.clamp(0, 1)).abs().mean(dim=(1, 2, 3))
    whole = float(away[0])
    if whole < LEAST:
        return []
    left = {_key(p): 1 - float(d) / whole for p, d in zip(inner, away, strict=True)}
    left[_key(torch.ones(h, w, dtype=torch.bool))] = 1.0

    def score(places: Tensor) -> float:
        return left[_key(places)]

    return [
        _row(
            measured,
            name,
            {
                "deletion": deletion_area(values, score, PARTS),
                "insertion": insertion_area(values, score, PARTS),
                "effect of the word's attention": whole,
            },
        )
        for name, values in maps.items()
    ]


def randomise(rendering: Rendering, measured: Sequence[Measured]) -> list[Row]:
    """The same maps from a U-Net that was never trained: how they rank with the trained one's, and how
    well they still point at the trained one's object."""
    fresh = measure(
        with_random_unet(rendering, RANDOM_SEED), [m.case for m in measured], words=1, truths=False
    )
    rows = []
    for trained, blind in zip(measured, fresh, strict=True):
        mask = trained.masks.of(trained.case.targets[0].slot)
        for name in COMPARED:
            values = blind.maps[0][name]
            found = {"rank with the trained map": rank_correlation(trained.maps[0][name], values)}
            if mask is not None:
                against = against_mask(values, mask, None)
                found |= {f"{m}, random U-Net": against[m] for m in ("pointing", "mass")}
            rows.append(_row(trained, name, found))
    return rows


def resample(rendering: Rendering, measured: Sequence[Measured]) -> list[Row]:
    """The same maps with other samplers from the same noise: how they rank with each other's. Where
    the run has the model's own number of steps, they take what they need (`ModelConfig.steps_with`)."""
    own, config = str(rendering.settings["sampler"]), rendering.model.config
    steps = rendering.settings.get("steps") or config.steps
    rows = []
    for sampler in (name for name in SAMPLERS if name != own):
        enough = config.steps_with(sampler) if steps == config.steps else steps
        other = measure(
            rendering.with_settings(sampler=sampler, steps=enough),
            [m.case for m in measured],
            words=1,
            truths=False,
        )
        for first, second in zip(measured, other, strict=True):
            for name in COMPARED:
                rank = rank_correlation(first.maps[0][name], second.maps[0][name])
                rows.append(_row(first, name, {f"rank with {sampler}": rank}))
    return rows


def _row(measured: Measured, name: str, found: Row) -> Row:
    target = measured.case.targets[0]
    return {
        "scene": measured.case.index,
        "seed": measured.case.seed,
        "word": target.text,
        "there": measured.masks.of(target.slot) is not None,
        "map": name,
        **found,
    }


def _cells(values: Tensor, size: tuple[int, int]) -> Tensor:
    """A map ``[H, W]`` at the latent's size: the mean over each cell."""
    return F.adaptive_avg_pool2d(values[None, None], size)[0, 0]


def _note(wanted: list[Tensor], places: Tensor) -> float:
    """A score that only writes down what it is asked for, so that all of it can be made at once."""
    wanted.append(places)
    return 0.0


def _key(places: Tensor) -> bytes:
    return bytes(places.flatten().tolist())
