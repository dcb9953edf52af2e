"""Pictures side by side, for people who want to see what a model does."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sd_scratch.files import write_file
from sd_scratch.pictures.pixels import to_bytes
from sd_scratch.pictures.png import encode_png

GAP = 2  # pixels between the pictures
GREY = 128


def grid(images: Tensor, columns: int, zoom: int = 1) -> Image.Image:
    """``[B, C, H, W]`` in -1..1 (C is 3, or 1 for greys), row by row, every pixel drawn `zoom` times as
    large."""
    pixels = to_bytes(images.detach().float().cpu() * 0.5 + 0.5).expand(-1, 3, -1, -1)
    count, _, height, width = pixels.shape
    rows = -(-count // columns)
    sheet = torch.full(
        (3, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP), GREY, dtype=torch.uint8
    )
    for i, picture in enumerate(pixels):
        top = GAP + i // columns * (height + GAP)
        left = GAP + i % columns * (width + GAP)
        sheet[:, top : top + height, left : left + width] = picture
    image = Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy())
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def save_grid(images: Tensor, path: Path, columns: int = 8, zoom: int = 2) -> None:
    """Write a grid as PNG. Raises `ScratchError` when it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, encode_png(grid(images, columns, zoom)), overwrite=True)
