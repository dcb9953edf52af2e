"""Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598), its rescaling, and guidance added to it."""

import math

from torch import Tensor

from sd_scratch.errors import UsageError


def guide(eps_uncond: Tensor, eps_cond: Tensor, scale: float) -> Tensor:
    """From the unconditional prediction towards the conditional one, `scale` times as far.

    `scale` is 1 + w of the paper's equation 6: 0 is the unconditional prediction, 1 the conditional one (both
    exactly), more than 1 exaggerates the effect of the text. The rule is linear, so it holds for eps, v and
    x0.
    Raises `UsageError` when `scale` is not finite.
    """
    if not math.isfinite(scale):
        raise UsageError(f"guidance scale {scale} is not a number - give 0 to 30")
    if scale == 1.0:
        return eps_cond
    return eps_uncond + scale * (eps_cond - eps_uncond)


def rescale(guided: Tensor, cond: Tensor, amount: float) -> Tensor:
    """Bring a guided prediction ``[B, ...]`` back to the standard deviation of the conditional one.

    Lin et al. 2023 (arXiv:2305.08891), equations 15 and 16. Large scales exaggerate contrast, most in models
    with zero terminal SNR. `amount`, the paper's phi, is the share of the rescaled prediction in the result,
    0 to 1, in the paper 0.7. Deviations are over all axes except the batch. Raises `UsageError` outside 0..1.
    """
    if not 0.0 <= amount <= 1.0:
        raise UsageError(f"guidance rescale {amount} is out of range - give a number from 0 to 1")
    if amount == 0.0:
        return guided
    axes = tuple(range(1, guided.dim()))
    factor = cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
    return amount * (guided * factor) + (1.0 - amount) * guided


def guide_by_picture(
    uncond: Tensor, pictured: Tensor, cond: Tensor, scale: float, picture_scale: float
) -> Tensor:
    """Two scales, one for the effect of the picture, one for the effect of the prompt with the picture
    (InstructPix2Pix, Brooks et al. 2023, arXiv:2211.09800, equation 3).

    Raises `UsageError` when a scale is not finite.
    """
    if not (math.isfinite(scale) and math.isfinite(picture_scale)):
        raise UsageError(f"guidance scales {scale} and {picture_scale} - give 0 to 30")
    return uncond + picture_scale * (pictured - uncond) + scale * (cond - pictured)


def perturb(guided: Tensor, cond: Tensor, perturbed: Tensor, scale: float) -> Tensor:
    """Move away from the prediction with perturbed self-attention: perturbed attention guidance (Ahn et al.
    2024, arXiv:2403.17377), beside classifier-free guidance, or by itself if `guided` is `cond`."""
    return guided + scale * (cond - perturbed)


def faded(scale: float, adaptive: float, t: float) -> float:
    """Perturbed attention's scale at a timestep of 0..999. It falls by `adaptive` with every timestep on the
    way down, to no less than 0 (diffusers' ``pag_adaptive_scale``)."""
    return max(0.0, scale - adaptive * (1000 - t)) if adaptive else scale
