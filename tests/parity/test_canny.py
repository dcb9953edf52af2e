"""Edges, against OpenCV pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

from sd_scratch.errors import UsageError
from sd_scratch.pictures.hints import canny


@pytest.mark.parametrize(("low", "high"), [(100, 200), (200, 100), (10, 30), (0, 0), (20.5, 77.7)])
@pytest.mark.parametrize(("height", "width"), [(97, 120), (1, 40), (40, 1), (2, 2)])
def test_edges_are_those_of_opencv(low, high, height, width):
    cv2 = pytest.importorskip("cv2")
    noise = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    stripes = noise // 128 * 127  # many equal gradients
    for image in (noise, cv2.GaussianBlur(noise, (9, 9), 3), stripes):
        expected = cv2.Canny(np.ascontiguousarray(image), low, high)
        edges = np.asarray(canny(Image.fromarray(image), low, high))
        assert (edges == expected[..., None]).all()


def test_an_edge_of_a_square():
    image = np.zeros((9, 9, 3), dtype=np.uint8)
    image[3:, 3:] = 255
    edges = np.asarray(canny(Image.fromarray(image)))[..., 0]
    assert edges.max() == 255 and not edges[5:, 5:].any() and not edges[:2, :2].any()
    with pytest.raises(UsageError, match="from 0 to 2040"):
        canny(Image.fromarray(image), -1, 10)
