"""Guidance on made-up features, where the direction of the prompt is known."""

import torch

from sd_scratch.diffusion.guidance import guide
from sd_scratch.teaching.plot import curves
from sd_scratch.teaching.table import Table

SCALES = (0.0, 1.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0)
LENGTH = 100
SIGNAL = 0.5  # standard deviation of what the prompt adds, where the features have 1
FACTOR = 3.0


def sweep() -> Table:
    """For each scale: the cosine between the guided features and what the prompt adds, their length, and how
    much of the prompt's direction is in them beside the conditional ones."""
    generator = torch.Generator().manual_seed(0)
    uncond = torch.randn(LENGTH, generator=generator, dtype=torch.float64)
    signal = SIGNAL * torch.randn(LENGTH, generator=generator, dtype=torch.float64)
    cond = uncond + signal
    along = float(cond @ signal)
    rows, cosines, lengths = [], [], []
    for scale in SCALES:
        guided = guide(uncond, cond, scale)
        cosines.append(float(torch.cosine_similarity(guided, signal, dim=0)))
        lengths.append(float(guided.norm() / cond.norm()))
        rows.append(
            (scale, cosines[-1], float(guided.norm()), lengths[-1], float(guided @ signal) / along)
        )
    past = next((s for s, length in zip(SCALES, lengths, strict=True) if length > FACTOR), None)
    reached = f"from scale {past:g} on" if past is not None else "at none of these scales"
    return Table(
        ("scale", "cosine", "length", "of cond's", "amplification"),
        tuple(rows),
        (
            f"the direction comes ever nearer to the prompt's ({cosines[1]:.2f} at 1, {cosines[-1]:.2f} at 20)",
            f"the length grows without bound: {FACTOR:g} times the conditional one's {reached}, for a prompt that"
            f" adds {SIGNAL:g} of the features' size; a weaker prompt is reached later",
        ),
        curves(
            SCALES,
            {"cosine": cosines, "length": [v / max(lengths) for v in lengths]},
            "guidance scale",
            "share of 1",
        ),
    )
