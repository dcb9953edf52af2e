"""Random weights on which a mistake shows.

A fresh network hides mistakes: its norms are the identity, its biases zero, its attention uniform.
"""

import torch
from torch import nn


def liven(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every parameter of `module` (which may be on ``meta``) with random numbers, in place.

    Weights keep the variance of what passes through; queries and keys are larger, so that attention
    has a few strong entries; norms and biases are well away from one and zero.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in module.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim <= 1:
            is_scale = "norm" in name and name.endswith("weight")
            state[name] = 1 + 0.2 * noise if is_scale else 0.1 * noise
        elif "embedding" in name and "linear" not in name:
            state[name] = 0.5 * noise
        else:
            gain = (
                1.5 if any(part in name for part in ("to_q", "to_k", "q_proj", "k_proj")) else 0.8
            )
            state[name] = gain * noise / value[0].numel() ** 0.5
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)
