"""Principal components by hand, the plane of some prompts, and ways through it."""

import numpy as np
import pytest
import torch

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.mapping import make_plane, places_along, principal_components
from tests.tiny import tiny_model

TEXTS = ["a red circle", "a blue circle", "a green square", "a large star"]


@pytest.fixture(scope="module")
def plane():
    model = tiny_model()
    return make_plane([model.prompt(text) for text in TEXTS])


@pytest.fixture
def rows():
    return torch.randn(7, 30, generator=torch.Generator().manual_seed(3))


def test_components_are_the_covariances_eigenvectors(rows):
    found = principal_components(rows, 3)
    centred = rows.double().numpy() - rows.double().numpy().mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    order = values.argsort()[::-1][:3]
    assert np.allclose(found.explained, values[order] / values.sum())
    for direction, vector in zip(found.directions.numpy(), vectors.T[order], strict=True):
        assert min(np.abs(direction - vector).max(), np.abs(direction + vector).max()) < 1e-9
    assert np.allclose(found.project(rows), centred @ found.directions.numpy().T)


def test_scikit_learn_agrees(rows):
    decomposition = pytest.importorskip("sklearn.decomposition")
    theirs = decomposition.PCA(3).fit(rows.double().numpy())
    ours = principal_components(rows, 3)
    assert np.allclose(ours.explained, theirs.explained_variance_ratio_)
    signs = np.sign((ours.directions.numpy() * theirs.components_).sum(axis=1))
    assert np.allclose(ours.directions.numpy(), theirs.components_ * signs[:, None])
    assert np.allclose(ours.project(rows), theirs.transform(rows.double().numpy()) * signs)


def test_the_sign_is_decided(rows):
    for count in (1, 4):
        directions = principal_components(rows, count).directions
        assert directions.gather(1, directions.abs().argmax(1, keepdim=True)).min() > 0
    flipped = principal_components(-rows, 2).directions
    assert torch.allclose(flipped, principal_components(rows, 2).directions)


def test_as_many_rows_as_components_are_too_few(rows):
    with pytest.raises(ScratchError, match="2 components need at least 3 different") as error:
        principal_components(rows[:2], 2)
    assert isinstance(error.value, UsageError)
    with pytest.raises(ScratchError, match="do not differ"):
        principal_components(rows[:1].expand(5, -1), 2)


def test_a_landmarks_place_is_the_landmark(plane):
    for prompt, place in zip(plane.landmarks, plane.places, strict=True):
        assert (plane.at(place).context - prompt.context).abs().max() < 1e-5


def test_a_place_projects_to_itself_and_far_away_nothing_but_the_plane_is_left(plane):
    for place in ([0.3, -2.0], [4.0, 1.0], [1e6, 0.0]):
        place = torch.tensor(place, dtype=torch.float64)
        vectors = plane.at(place).context.flatten(1)
        back = plane.components.project(vectors)[0]
        assert (back - place).norm() < 1e-3 + 1e-6 * place.norm()
    far = torch.tensor([1e4, 0.0], dtype=torch.float64)
    expected = plane.components.mean + plane.components.embed(far[None])[0]
    assert (plane.at(far).context.flatten() - expected).abs().max() < 1e-2


def test_with_three_landmarks_the_way_is_the_line_between_their_vectors():
    model = tiny_model()
    prompts = [model.prompt(text) for text in TEXTS[:3]]
    plane = make_plane(prompts)
    middle = plane.at(plane.places[0].lerp(plane.places[1], 0.25)).context
    assert (middle - prompts[0].lerp(prompts[1], 0.25).context).abs().max() < 1e-5


def test_places_alongs_visit_every_corner_and_are_even():
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0]], dtype=torch.float64)
    places = places_along(corners, 5)
    assert places.tolist() == [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1]]
    assert places_along(corners[[0, 0, 1]], 4).tolist() == [[0, 0], [0, 0], [1.5, 0], [3, 0]]
    for frames in range(3, 30):
        places = places_along(corners, frames)
        assert len(places) == frames
        assert all((places == corner).all(dim=1).any() for corner in corners)
    for count, frames in ((1, 5), (3, 2)):
        with pytest.raises(ScratchError, match="two places at least"):
            places_along(corners[:count], frames)


def test_a_long_prompt_and_short_ones_share_a_plane():
    model = tiny_model()
    prompts = [model.prompt(text) for text in ("a red circle, " * 30, "a dog", "a cat")]
    plane = make_plane(prompts)
    assert len({prompt.context.shape for prompt in plane.landmarks}) == 1
    at = plane.at(plane.places[1])
    assert torch.allclose(at.context[:, :77], prompts[1].context, atol=1e-5)
