"""Masks: read, resized, as cells of the latent, as a feather, and the colours that fill them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.pictures.masks import (
    feathered,
    filled,
    mask_cells,
    paste,
    read_holes,
    read_mask,
    resized,
)


def box(height, width, top, left, bottom, right):
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def test_half_grey_is_white_and_transparent_is_black(tmp_path: Path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 127, 128, 255]], dtype=np.uint8)).save(path)
    assert read_mask(path).tolist() == [[False, False, True, True]]
    Image.fromarray(np.array([[[255, 255, 255, 0], [255, 255, 255, 255]]], dtype=np.uint8)).save(
        path
    )
    assert read_mask(path).tolist() == [[False, True]]
    Image.fromarray(np.array([[0, 30000, 40000, 65535]], dtype=np.uint16)).save(path)
    assert read_mask(path).tolist() == [[False, False, True, True]]


def test_what_is_transparent_is_a_mask(tmp_path: Path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.array([[[9, 9, 9, 0], [9, 9, 9, 127], [9, 9, 9, 128]]], np.uint8)).save(path)
    assert read_holes(path).tolist() == [[True, True, False]]
    Image.new("RGB", (3, 1)).save(path)
    with pytest.raises(UsageError, match=r"picture\.png - has nothing transparent"):
        read_holes(path)


def test_a_broken_mask_is_one_line(tmp_path: Path):
    path = tmp_path / "mask.png"
    path.write_bytes(b"no picture")
    for read in (read_mask, read_holes):
        with pytest.raises(ScratchError, match=r"mask\.png - not a PNG"):
            read(path)


def test_thin_strokes_survive_a_smaller_size_and_the_cells():
    stroke = box(64, 64, 0, 37, 64, 38)
    assert resized(stroke, 16, 16).any(axis=1).all()
    cells = mask_cells(stroke, 8)
    assert cells.shape == (1, 1, 8, 8)
    assert torch.equal(cells[0, 0].sum(0), torch.eye(8)[4] * 8)
    assert np.array_equal(resized(resized(stroke, 128, 128), 64, 64), stroke)


@pytest.mark.parametrize("reach", [0, 1, 2, 4, 7])
def test_the_feather_is_all_under_the_mask_and_nothing_beyond_its_reach(reach):
    mask = box(40, 50, 12, 0, 20, 15)  # at the border on the left
    weight = feathered(mask, reach)
    assert weight.shape == mask.shape and (weight[mask] == 1).all()
    near = box(40, 50, 12 - reach, 0, 20 + reach, 15 + reach)
    assert (weight[~near] == 0).all() and (weight[near] > 0).all()
    across = weight[16, 14 : 15 + reach + 1]
    assert (np.diff(across) <= 0).all()
    if reach:
        assert 0 < across[1] <= 1 and (reach == 1 or across[-2] < 1)
    with pytest.raises(UsageError, match="feather of -1"):
        feathered(mask, -1)


def test_what_is_kept_is_pasted_to_the_bit():
    rng = np.random.default_rng(0)
    a, b = (Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(2))
    weight = feathered(box(40, 50, 10, 10, 20, 20), 4)
    old, new, made = (np.asarray(picture) for picture in (a, b, paste(a, b, weight)))
    assert np.array_equal(made[weight == 0], old[weight == 0])
    assert np.array_equal(made[weight == 1], new[weight == 1])
    between = (weight > 0) & (weight < 1)
    low, high = np.minimum(old, new)[between], np.maximum(old, new)[between]
    assert between.any() and (made[between] >= low).all() and (made[between] <= high).all()


@pytest.mark.parametrize("size", [(64, 64), (37, 23), (1, 9)])
def test_a_hole_is_filled_with_the_colours_around_it(size):
    width, height = size
    ramp = np.linspace(0, 240, width)[None, :, None].repeat(height, 0).repeat(3, 2)
    picture = Image.fromarray(ramp.astype(np.uint8))
    mask = box(height, width, height // 4, width // 4, 3 * height // 4, 3 * width // 4)
    hidden = Image.fromarray(np.where(mask[..., None], np.uint8(255), np.asarray(picture)))
    made = np.asarray(filled(hidden, mask)).astype(int)
    assert np.array_equal(made[~mask], np.asarray(picture)[~mask])
    assert abs(made - ramp).max() < 60  # 255 where it was not filled


def test_where_nothing_is_known_nothing_is_filled():
    made = np.asarray(filled(Image.new("RGB", (8, 8), "red"), np.ones((8, 8), dtype=bool)))
    assert (made == 0).all()
