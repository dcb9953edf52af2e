"""Perturbation maps: where the picture changes when a word is said a little louder."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sd_scratch.mapping.adjustment import adjusted
from sd_scratch.mapping.maps import GREY_LEVELS, Map, require_full_precision
from sd_scratch.mapping.maps_report import maps_report
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.mapping.report import Report
from sd_scratch.mapping.words import name_of
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.text.encoding import Word

LAMBDA = 0.15
LUMA = (19595, 38470, 7471)  # of red, green and blue, in parts of 65536 (ITU-R BT.601)


def grey(pixels: Tensor) -> Tensor:
    """8-bit colours ``[..., 3, H, W]`` to 8-bit grey ``[..., H, W]``, rounded as Pillow rounds."""
    weights = torch.tensor(LUMA, device=pixels.device)
    total = (pixels.int() * weights[:, None, None]).sum(dim=-3)
    return ((total + (1 << 15)) >> 16).to(torch.uint8)


def difference(first: Tensor, second: Tensor) -> Tensor:
    """The absolute difference of two 8-bit pictures, channel by channel, as grey: ``[..., H, W]``."""
    return grey((first.int() - second.int()).abs())


def perturbation_maps(
    rendering: Rendering,
    prompt: Prompt,
    words: Sequence[Word],
    *,
    amount: float = LAMBDA,
    origin: str = "zero",
) -> tuple[Tensor, list[Map]]:
    """Each word in turn times 1 + `amount`, and the difference to the picture without that.

    Returns the original picture ``[3, H, W]`` uint8, and a map for each word, in grey levels 0..255.
    Raises ScratchError (bad usage) in half precision.
    """
    require_full_precision(rendering.model.dtype)
    changed = [adjusted(prompt, word, [amount], origin)[0] for word in words]
    original, *pictures = rendering.pixels([prompt, *changed])
    method = f"perturbation, lambda {amount:g} from {origin}"
    maps = [
        Map(
            difference(picture, original).float(),
            rendering.size,
            name_of(prompt, word),
            method,
            GREY_LEVELS,
        )
        for word, picture in zip(words, pictures, strict=True)
    ]
    return original, maps


def perturbation_report(
    rendering: Rendering,
    prompt: Prompt,
    words: Sequence[Word],
    *,
    amount: float = LAMBDA,
    origin: str = "zero",
) -> Report:
    """`perturbation_maps` as figures, a table and raw maps."""
    pixels, maps = perturbation_maps(rendering, prompt, words, amount=amount, origin=origin)
    notes = [
        f"Prompt: {prompt.text}",
        "Grey: the absolute difference of two pictures from the same noise, with and without the "
        f"word's vectors times {1 + amount:g}. Colours: one a word, the more opaque the larger "
        "the difference; all on one scale.",
    ]
    report = maps_report("perturb", "Where each word changes the picture", pixels, maps, notes)
    report.facts.update({"lambda": amount, "origin": origin})
    return report
