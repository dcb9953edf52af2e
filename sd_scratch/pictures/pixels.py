"""Colours to 8 bits, in one place, so that a PNG, a map and a score all see the same pixels."""

import torch
from torch import Tensor


def to_bytes(colours: Tensor) -> Tensor:
    """Colours of any shape, 0 black and 1 full, to uint8 on their own device. What lies outside of 0..1
    is cut off, and halves round to even."""
    return (colours.clamp(0, 1) * 255).round().to(torch.uint8)
