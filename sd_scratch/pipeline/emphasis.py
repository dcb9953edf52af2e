"""Three ways to apply weights of words to the text encoder's vectors, `EMPHASES`.

With z a token's vector, w its weight and e the empty prompt's vector at the same place:

- ``"a1111"``: w z, and then everything times (mean of z / mean of w z), so that the chunk keeps its mean
  over all places and channels;
- ``"comfy"``: e + w (z - e), away from the empty prompt;
- ``"none"``: w z.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from sd_scratch.errors import UsageError

EMPHASES = ("a1111", "comfy", "none")


def check_emphasis(how: str) -> None:
    if how not in EMPHASES:
        raise UsageError(f"unknown emphasis '{how}' - use {', '.join(EMPHASES)}")


def weigh(z: Tensor, empty: Tensor, weights: Mapping[int, float], how: str) -> Tensor:
    """The vectors of a prompt with its weights.

    Args:
        z: ``[chunks, N, C]``.
        empty: the empty prompt's, ``[1, N, C]``.
        weights: those that are not 1, by the place among all ``chunks * N``.
        how: one of `EMPHASES`.

    Returns ``[1, chunks * N, C]``. Without weights these are the same numbers. A1111 takes its mean over the
    batch; here it is that of one chunk of one prompt, so no picture depends on its neighbours.
    """
    check_emphasis(how)
    w = torch.ones(z.shape[0] * z.shape[1], dtype=z.dtype, device=z.device)
    for position, weight in weights.items():
        w[position] = weight
    w = w.view(*z.shape[:2], 1)
    changed = (w != 1).any(dim=1, keepdim=True)  # [chunks, 1, 1]
    if how == "comfy":
        weighed = torch.where(w == 1, z, empty + w * (z - empty))
    else:
        weighed = w * z
        if how == "a1111":
            before, after = (x.float().mean(dim=(1, 2), keepdim=True) for x in (z, weighed))
            weighed = weighed * (before / after).to(z.dtype)
    return torch.where(changed, weighed, z).flatten(0, 1)[None]
