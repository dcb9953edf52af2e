"""CLIP scores: how well a picture fits a text (Hessel et al. 2021, arXiv:2104.08718, equation 1, with
the scale that CLIP learned)."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sd_scratch.checkpoints.clip import DEVIATION, MEAN, ClipModel


def prepare(pixels: Tensor, side: int) -> Tensor:
    """8-bit pictures ``[B, 3, H, W]`` as CLIP reads them, ``[B, 3, side, side]``: the shorter side
    resized to `side` (bicubic), the middle cut out, colours normalised."""
    height, width = pixels.shape[-2:]
    short = min(height, width)
    size = (int(width * side / short), int(height * side / short))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    pictures = []
    for picture in pixels.permute(0, 2, 3, 1).cpu().numpy():
        resized = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
        pictures.append(np.asarray(resized.crop((left, top, left + side, top + side))))
    colours = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    return (colours - mean) / deviation


@torch.no_grad()
def clip_scores(clip: ClipModel, pixels: Tensor, text: str) -> Tensor:
    """The score of each picture ``[B, 3, H, W]`` uint8 for one text: ``[B]`` fp32, -100..100 for
    OpenAI's models, where pictures that fit have 25 to 35."""
    network = clip.network
    device = network.logit_scale.device
    pictures = prepare(pixels, network.config.image.image_size).to(device)
    ids = torch.tensor([clip.tokenizer.encode(text).ids], device=device)
    return network.scores(network.image_vectors(pictures), network.text_vectors(ids))[:, 0].cpu()
