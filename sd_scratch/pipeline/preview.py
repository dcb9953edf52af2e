"""A preview from only the latent: no decoder, a few multiplications a step.

A cell of a latent is nearly linear in the mean colour of its pixels, so a linear map of its four numbers
makes a small picture.
"""

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sd_scratch.pictures.grid import grid

# Rows are the latent's channels, and what is added; columns are red, green and blue in -1..1.
# Of Stable Diffusion 1.x: found by regression in the Hugging Face forum, "Decoding latents to RGB without
# upscaling" (2022). Of `scenes`: scripts/preview_factors.py, which explain 74 % of the colours' variance.
FACTORS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "sd": (
        (0.298, 0.207, 0.208),
        (0.187, 0.286, 0.173),
        (-0.158, 0.189, 0.264),
        (-0.184, -0.271, -0.473),
        (0.0, 0.0, 0.0),
    ),
    "scenes": (
        (-0.1490, -0.1406, -0.6993),
        (1.3684, -1.9208, 1.8982),
        (0.1349, 0.9431, -0.2174),
        (0.9731, -1.2031, 2.5778),
        (0.2387, -0.2648, 0.2501),
    ),
}


def colours(latent: Tensor, model: str) -> Tensor:
    """A latent ``[B, 4, h, w]`` as colours ``[B, 3, h, w]`` in -1..1; `model` is the configuration's name,
    and every other name than `scenes` counts as Stable Diffusion."""
    table = torch.tensor(FACTORS.get(model, FACTORS["sd"]))
    weights, added = table[:-1], table[-1]
    rgb = torch.einsum("bchw,cr->brhw", latent.detach().float().cpu(), weights)
    return (rgb + added[:, None, None]).clamp(-1, 1)


def preview(latent: Tensor, model: str, cell: int = 8) -> Image.Image:
    """The preview of a batch as one picture, side by side; a cell of the latent becomes `cell` by `cell`
    pixels."""
    rgb = colours(latent, model)
    large = F.interpolate(rgb, scale_factor=cell, mode="bilinear", align_corners=False)
    return grid(large, columns=len(large))
