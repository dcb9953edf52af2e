"""CLIP scores: how well a picture fits a text (Hessel et al. 2021, arXiv:2104.08718, equation 1, with
the scale that CLIP learned)."""

import torch
from torch import Tensor

from sd_scratch.checkpoints.clip import ClipModel, prepare


@torch.no_grad()
def clip_scores(clip: ClipModel, pixels: Tensor, text: str) -> Tensor:
    """The score of each picture ``[B, 3, H, W]`` uint8 for one text: ``[B]`` fp32, -100..100 for
    OpenAI's models, where pictures that fit have 25 to 35."""
    network = clip.network
    device = network.logit_scale.device
    pictures = prepare(pixels, network.config.image.image_size).to(device)
    ids = torch.tensor([clip.tokenizer.encode(text).ids], device=device)
    return network.scores(network.image_vectors(pictures), network.text_vectors(ids))[:, 0].cpu()
