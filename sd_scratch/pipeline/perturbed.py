"""Perturbed attention guidance (Ahn et al. 2024, arXiv:2403.17377), an edit of two tensors: in a branch of
its own the attention map of chosen self-attentions is the identity, so every place sees only itself. The
prediction then lacks structure, and guidance moves away from it (`sd_scratch.diffusion.guidance.perturb`)."""

from fnmatch import fnmatchcase

import torch
from torch import Tensor

from sd_scratch.errors import UsageError
from sd_scratch.networks.unet import UNet
from sd_scratch.pipeline.fast.edits import Listening

LAYERS = "mid_block"  # as the paper has it for Stable Diffusion


class Perturbing(Listening):
    """Replaces ``z`` by ``v`` in the last branch but one of so many."""

    def __init__(self, unet: UNet, layers: str, branches: int) -> None:
        paths = dict.fromkeys(p for layer in layers.split(",") for p in _paths(unet, layer.strip()))
        super().__init__(*(f"{path}.{leaf}" for path in paths for leaf in ("v", "z")))
        self.branches = branches

    def hear(self, name: str, x: Tensor) -> Tensor:
        if name.endswith(".v"):
            self.v = x
            return x
        *before, _, cond = x.chunk(self.branches)
        return torch.cat([*before, self.v.chunk(self.branches)[-2], cond])


def _paths(unet: UNet, layer: str) -> list[str]:
    """The self-attentions whose paths begin with a layer's name; UsageError for none."""
    paths = [name for name, _ in unet.named_modules() if name.endswith(".attn1")]
    found = [path for path in paths if layer and fnmatchcase(path, f"{layer}*")]
    if not found:
        parts = dict.fromkeys(".".join(path.split(".")[:2]) for path in paths)
        raise UsageError(
            f"pag layers: no self-attention of this U-Net is in {layer[:60]!r} - they are in"
            f" {', '.join(p.removesuffix('.attentions') for p in parts)}"
        )
    return [f"unet.{path}" for path in found]
