from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from sd_scratch.mapping.drawing import (
    Cell,
    dark,
    font,
    grey_map,
    hues,
    layer,
    overlay_all,
    overlay_strongest,
    scale_bar,
    sheet,
    wrap,
)
from sd_scratch.mapping.maps import GREY_LEVELS, Map, largest, stretched


def make_map(values, word="cat"):
    tensor = torch.tensor(values)
    return Map(tensor, (tensor.shape[1], tensor.shape[0]), word, "made up", "one")


def test_one_scale_for_all_maps_and_nothing_is_stretched():
    maps = [make_map([[0.0, 1.0]]), make_map([[2.0, 4.0]])]
    top = largest(maps)
    assert top == 4.0
    assert np.asarray(grey_map(maps[0], top))[0, :, 0].tolist() == [0, 64]
    assert np.asarray(grey_map(maps[1], top))[0, :, 0].tolist() == [128, 255]


def test_a_map_as_printed_fills_all_grey_levels_unless_it_has_them_already():
    map_ = make_map([[1.0, 2.0, 5.0]])
    assert stretched(map_).tensor.tolist() == [[0.0, 63.75, 255.0]]
    assert stretched(map_).units == "of 255, each word by itself"
    grey = replace(map_, units=GREY_LEVELS)
    assert stretched(grey) is grey
    assert not stretched(make_map([[3.0, 3.0]])).tensor.any()


def test_maps_that_look_black_say_why():
    maps = [make_map([[0.0, 100.0]]), make_map([[0.0, 1.0]]), make_map([[0.0, 11.0]])]
    maps = [replace(m, word=word) for m, word in zip(maps, ("cat", "the", "mat"), strict=True)]
    (line,) = dark(maps, 100.0)
    assert "the (up to 1)" in line and "mat" not in line and "cat" not in line
    assert "all their values are 0" in dark([make_map([[0.0, 0.0]])], 0.0)[0]
    assert dark(maps[:1], 100.0) == []


def test_maps_without_any_value_are_black():
    map_ = make_map([[0.0, 0.0]])
    assert largest([map_]) == 0 and largest([]) == 0
    assert not np.asarray(grey_map(map_, 0.0)).any()


def test_hues_are_spread_and_saturated():
    assert hues(3) == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert hues(0) == [] and len(set(hues(12))) == 12


def test_a_layer_has_the_words_hue_and_the_maps_intensity_as_alpha():
    pixels = np.asarray(layer(make_map([[0.0, 1.0, 2.0]]), 2.0, (0, 255, 0)))
    assert pixels[0, :, 3].tolist() == [0, 128, 255]
    assert (pixels[..., :3] == (0, 255, 0)).all()


def test_overlays():
    below = Image.new("RGB", (3, 1), (0, 0, 0))
    maps = [make_map([[2.0, 1.0, 0.0]]), make_map([[0.0, 2.0, 1.0]])]
    colours = hues(3)[:2]  # red, green
    strongest = np.asarray(overlay_strongest(below, maps, 2.0, colours))[0].tolist()
    assert strongest == [[255, 0, 0], [0, 255, 0], [0, 128, 0]]
    together = np.asarray(overlay_all(below, maps, 2.0, colours))[0].tolist()
    assert together[0] == [255, 0, 0] and together[1] == [0, 255, 0]
    half = [make_map([[1.0]]), make_map([[1.0]])]
    mixed = np.asarray(overlay_all(below.crop((0, 0, 1, 1)), half, 2.0, colours))[0, 0]
    assert mixed[0] > 30 and mixed[1] > 100  # both shine through


def test_a_small_map_covers_the_whole_picture():
    map_ = Map(torch.ones(2, 3), (30, 20), "cat", "made up", "one")
    assert grey_map(map_, 1.0).size == (30, 20)
    assert np.asarray(grey_map(map_, 1.0)).min() == 255


def test_a_sheet_holds_every_cell_and_its_text():
    cell = Cell(
        Image.new("RGB", (8, 8), (255, 0, 0)), "a caption that is longer than its cell", (1, 2, 3)
    )
    rows = [[cell, cell, cell], [cell, None]]
    page = sheet("A title", rows, notes=["a note"] * 3, row_labels=["ddim", "lms"])
    red = (np.asarray(page) == (255, 0, 0)).all(axis=-1).sum()
    assert red == 4 * 192 * 192
    large = sheet("A title", [[Cell(Image.new("RGB", (768, 512), (255, 0, 0)))]])
    assert large.width < 768
    foot = Image.new("RGB", (900, 9), (7, 8, 9))
    wide = np.asarray(sheet("A title", [[cell]], row_labels=["ddim"], foot=foot))
    assert (wide == (7, 8, 9)).all(axis=-1).sum() == 900 * 9
    small = np.asarray(sheet("A title", [[cell]], side=64))
    assert (small == (255, 0, 0)).all(axis=-1).sum() == 64 * 64


def test_the_ends_of_a_scale_stand_under_the_ends_of_its_colours():
    bar = np.asarray(scale_bar(3.0, "grey levels of which nobody has heard before"))
    assert bar.shape[1] > 300 and bar[5, 1].max() < 5 and bar[5, 254].min() > 250
    below = (bar[18:] < 100).any(axis=(0, 2))
    assert below[:12].any() and below[240:256].any()
    assert not below[12:240].any() and not below[256:].any()


def test_text_is_wrapped_between_words_and_inside_long_ones():
    face = font(14)
    lines = wrap("a red circle " + "x" * 100, face, 80)
    assert all(face.getlength(line) <= 80 for line in lines)
    assert "".join(lines).replace(" ", "") == "aredcircle" + "x" * 100
