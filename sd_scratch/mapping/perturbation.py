"""Perturbation maps: where the picture changes when a word is said a little louder."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sd_scratch.mapping.adjustment import adjusted
from sd_scratch.mapping.maps import Map, require_full_precision
from sd_scratch.mapping.rendering import Rendering
from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.text.tokenizer import Word

LAMBDA = 0.15
UNITS = "grey levels, of 255"
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
        Map(difference(picture, original).float(), rendering.size, word.text, method, UNITS)
        for word, picture in zip(words, pictures, strict=True)
    ]
    return original, maps
