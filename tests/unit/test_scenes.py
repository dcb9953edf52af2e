"""The scenes: drawn the same way every time, described truthfully, and read back without error."""

import re

import pytest
import torch

from sd_scratch.training.scenes import oracle
from sd_scratch.training.scenes.captions import PREFIXES, SYNONYMS, caption, full_caption
from sd_scratch.training.scenes.graph import (
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    place_of,
    sample_scene,
)
from sd_scratch.training.scenes.render import DISTANCES, coverage, render

SYNONYM_OF = {word: name for name, words in SYNONYMS.items() for word in words}


def scenes(count: int, seed: int = 3) -> list[Scene]:
    return [sample_scene(seed, i) for i in range(count)]


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    assert sample_scene(1, 7) == sample_scene(1, 7)
    assert len({sample_scene(1, i) for i in range(50)}) == 50
    assert sample_scene(1, 7) != sample_scene(2, 7)


def test_a_picture_does_not_depend_on_its_batch() -> None:
    many = scenes(12)
    together = render(many, 32)
    for i, scene in enumerate(many):
        alone = render([scene], 32)
        torch.testing.assert_close(alone.images[0], together.images[i], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone.masks[0, 0], together.masks[i, 0], rtol=0, atol=1e-6)


def test_all_attributes_are_drawn_evenly_and_colours_always_differ() -> None:
    many = scenes(3000)
    items = [scene.objects[0] for scene in many]
    for names, drawn in (
        (SHAPES, [item.shape for item in items]),
        (COLOURS, [item.colour for item in items]),
        (COLOURS, [scene.background for scene in many]),
        (SIZES, [item.size for item in items]),
    ):
        for name in names:
            assert drawn.count(name) == pytest.approx(3000 / len(names), rel=0.2), name
    assert all(scene.background != scene.objects[0].colour for scene in many)
    assert {item.place for item in items} == set(PLACES)


def test_every_two_colours_are_far_apart() -> None:
    palette = torch.tensor(list(COLOURS.values()))
    distances = torch.pdist(palette)
    assert distances.min() > 0.4
    assert palette.min() >= 0 and palette.max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_stay_inside_the_picture_and_keep_their_area_at_any_resolution(shape: str) -> None:
    many = [scene for scene in scenes(300) if scene.objects[0].shape == shape]
    masks = render(many, 64).masks[:, 0]
    assert torch.cat([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]], 1).max() == 0
    fine = render(many, 160).masks[:, 0]
    torch.testing.assert_close(masks.mean((1, 2)), fine.mean((1, 2)), rtol=0.02, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_are_distances(shape: str) -> None:
    """|grad d| = 1 almost everywhere outside a shape, which is what anti-aliasing relies on."""
    line = torch.linspace(-1.6, 1.6, 161)
    y, x = torch.meshgrid(line, line, indexing="ij")
    d = DISTANCES[shape](x, y)
    step = float(line[1] - line[0])
    dy, dx = torch.gradient(d, spacing=step)
    slope = torch.hypot(dx, dy)[d > 0.05]
    assert (slope - 1).abs().quantile(0.9) < 0.02
    assert d.min() < -0.2  # there is an inside


def test_the_picture_is_the_masks_blend_of_its_colours() -> None:
    many = scenes(20)
    images, masks = render(many, 48)
    for scene, image, mask in zip(many, images, masks[:, 0], strict=True):
        back = torch.tensor(scene.background_rgb)[:, None, None]
        front = torch.tensor(scene.objects[0].rgb)[:, None, None]
        torch.testing.assert_close((image + 1) / 2, back + mask * (front - back))


def test_later_objects_cover_earlier_ones() -> None:
    under = SceneObject("square", "red", "large", 0.5, 0.5, 0.33, 0.0, COLOURS["red"])
    over = SceneObject("circle", "blue", "small", 0.5, 0.5, 0.19, 0.0, COLOURS["blue"])
    images, masks = render([Scene("white", COLOURS["white"], (under, over)), scenes(1)[0]], 64)
    assert masks.shape == (2, 2, 64, 64) and masks[1, 1].max() == 0
    assert masks[0, 0, 32, 32] == 0 and masks[0, 1, 32, 32] == 1
    assert masks[0].sum(dim=0).max() <= 1 + 1e-6
    torch.testing.assert_close((images[0, :, 32, 32] + 1) / 2, torch.tensor(COLOURS["blue"]))


def test_coverage_of_a_disc_is_its_area() -> None:
    one = torch.ones(1)
    drawn = coverage("circle", 0.45 * one, 0.55 * one, 0.3 * one, 0 * one, 64)
    assert float(drawn.mean()) == pytest.approx(3.14159 * 0.09, rel=1e-3)


def test_the_plain_sentence() -> None:
    star = SceneObject("star", "red", "large", 0.5, 0.5, 0.33, 0.0, COLOURS["red"])
    blue = Scene("blue", COLOURS["blue"], (star,))
    assert full_caption(blue) == "a large red star on a blue background"
    orange = Scene("orange", COLOURS["orange"], (star,))
    assert full_caption(orange) == "a large red star on an orange background"


def test_captions_tell_the_truth_and_only_what_they_say_they_mention() -> None:
    for i, scene in enumerate(scenes(1500)):
        said = caption(scene, 3, i)
        assert said == caption(scene, 3, i)
        words = {SYNONYM_OF.get(word, word) for word in words_of(said.text)}
        item = scene.objects[0]
        truth = {
            "shape": (item.shape, SHAPES),
            "size": (item.size, SIZES),
        }
        for name, (value, others) in truth.items():
            assert words & set(others) <= {value}, said
            assert (value in words) == (name in said.mentions), said
        colours = words & set(COLOURS)
        expected = {item.colour} if "colour" in said.mentions else set()
        expected |= {scene.background} if "background" in said.mentions else set()
        assert colours == expected, said


def words_of(text: str) -> list[str]:
    text = text.lower()
    for prefix in PREFIXES:
        text = text.removeprefix(prefix)
    return re.findall("[a-z]+", text)


def test_attributes_are_left_out_as_often_as_they_should_be() -> None:
    mentions = [caption(scene, 3, i).mentions for i, scene in enumerate(scenes(2000))]
    for name in ("background", "colour", "shape", "size"):
        share = sum(name in said for said in mentions) / 2000
        assert share == pytest.approx(0.25 + 0.75 * 0.85, abs=0.03)


def test_variants_are_paraphrases() -> None:
    scene = sample_scene(3, 0)
    assert len({caption(scene, 3, 0, variant).text for variant in range(40)}) > 10


def test_a_scene_as_json_has_places() -> None:
    plain = sample_scene(3, 0).to_json()
    assert plain["objects"][0]["place"] in PLACES
    assert plain["background"] in COLOURS


def test_places() -> None:
    assert place_of(0.1, 0.1) == "top left"
    assert place_of(0.5, 0.5) == "middle centre"
    assert place_of(0.9, 0.61) == "bottom right"


def test_the_oracle_reads_true_renderings_without_error() -> None:
    many = scenes(200, seed=5)
    figures = oracle.score(oracle.read(render(many, 64).images), many)
    assert set(figures.values()) == {1.0}


def test_the_oracle_sees_blur_and_noise_through() -> None:
    many = [scene for scene in scenes(120, seed=6) if scene.objects[0].size != "small"]
    images = render(many, 64).images
    blurred = torch.nn.functional.avg_pool2d(
        images, 3, stride=1, padding=1, count_include_pad=False
    )
    noise = 0.04 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    figures = oracle.score(oracle.read(blurred + noise), many)
    assert figures["shape and colour"] > 0.95


def test_the_oracle_finds_nothing_where_nothing_is() -> None:
    plain = torch.full((1, 3, 64, 64), -1.0)
    reading = oracle.read(plain)[0]
    assert (reading.background, reading.colour, reading.shape) == ("black", None, None)


def test_the_oracle_does_not_call_a_blob_a_shape() -> None:
    """Half the picture is of another colour: no shape, and so no size and no place."""
    image = torch.full((1, 3, 64, 64), -1.0)
    image[:, 0, 20:24, 5:60] = 1.0
    reading = oracle.read(image)[0]
    assert reading.colour == "red" and reading.shape is None and reading.overlap < 0.75


def test_the_oracle_can_be_wrong() -> None:
    """Swapped pictures must score near chance, or the score says nothing."""
    many = scenes(200, seed=8)
    readings = oracle.read(render(many, 64).images)
    figures = oracle.score(readings[1:] + readings[:1], many)
    assert figures["shape"] < 0.3 and figures["colour"] < 0.25 and figures["background"] < 0.25
