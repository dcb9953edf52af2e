import numpy as np
import torch

from sd_scratch.mapping.charts import (
    BAR,
    Curve,
    bar_chart,
    heat_matrix,
    line_chart,
    matrix_chart,
    name_width,
    plane_chart,
    ticks,
)
from sd_scratch.mapping.drawing import font


def count(image, colour):
    return int((np.asarray(image) == colour).all(axis=-1).sum())


def test_a_matrix_is_white_at_nothing_and_dark_at_the_top():
    pixels = np.asarray(heat_matrix(torch.tensor([[0.0, 1.0], [0.5, 3.0]]), 1.0))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == pixels[1, 1].tolist() == [8, 29, 88]
    assert 100 < pixels[1, 0, 0] < 160


def test_a_chart_of_a_matrix_has_a_cell_for_every_number():
    values = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    chart = matrix_chart(values, ["a", "b"], ["c", "d", "e"], 1.0, cell=40)
    assert chart.width > 120 and chart.height > 80
    assert 2 * 40 * 40 - 400 < count(chart, (8, 29, 88)) <= 2 * 40 * 40


def test_names_stand_beside_a_matrix_and_numbers_only_where_something_is():
    values = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    bare = matrix_chart(values, cell=20, numbers=False)
    assert bare.size == (41, 41)
    named = matrix_chart(values, ["first", "second"], ["a", "b"], cell=20, numbers=False)
    left = name_width(["first", "second"], font(13))
    beside = np.asarray(named)[-41:, :left]
    assert (beside[:20] < 100).any() and (beside[21:] < 100).any()
    assert np.array_equal(np.asarray(named)[-41:, left:], np.asarray(bare))
    written = np.asarray(matrix_chart(values, top=4.0))
    assert (written[:44, :44] < 100).any() and not (written[1:44, 45:88] < 100).any()


def test_bars_are_as_long_as_their_values():
    lengths = [count(bar_chart([value], ["x"], 4.0), BAR) for value in (1.0, 2.0, 4.0)]
    assert abs(lengths[1] / lengths[0] - 2) < 0.1 and abs(lengths[2] / lengths[1] - 2) < 0.1
    assert bar_chart([], [], 0.0).height > 0
    assert np.array_equal(bar_chart([1e-16], ["x"], 2.0), bar_chart([0.0], ["x"], 2.0))


def test_a_constant_curve_is_a_level_line_and_a_spread_a_band():
    red = (255, 0, 0)
    flat = np.asarray(line_chart([Curve([2.0] * 9, [0.0] * 9, red)], "n", "score"))
    rows = np.nonzero((flat == red).all(axis=-1).sum(axis=1) > 200)[0]
    assert 1 <= len(rows) <= 3
    banded = np.asarray(line_chart([Curve([2.0] * 9, [1.0] * 9, red)], "n", "score"))
    pale = (banded[..., 0] == 255) & (banded[..., 1] < 250) & (banded[..., 1] > 150)
    assert pale.sum() > 50_000


def test_points_stand_where_they_are_on_one_scale():
    marks = np.asarray(
        plane_chart([[0.0, 0.0], [10.0, 0.0], [0.0, 5.0]], ["a", "b", "c"], side=400)
    )
    red = (marks == (200, 40, 40)).all(axis=-1)
    assert red[235:275, 25:65].any()  # (0, 0): the left, below the middle
    assert red[235:275, 335:375].any()  # (10, 0): the right
    assert red[85:165, 25:65].any()  # (0, 5): the left, half as far up
    way = plane_chart([[0.0, 0.0]], ["a"], [[0.0, 0.0], [1.0, 1.0]], ("x", "y"))
    assert count(way, BAR) > 100


def test_ticks_are_round_numbers_within_the_axis():
    assert ticks(-0.7, 11.2) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.0, 0.03) == [0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03]
    assert ticks(-120, 430) == [-100, 0, 100, 200, 300, 400]
