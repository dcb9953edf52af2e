"""The scenes: drawn the same way every time, described truthfully, and read back without error."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from sd_scratch.scenes import oracle
from sd_scratch.scenes.captions import (
    NUMBERS,
    PHRASES,
    PREFIXES,
    SYNONYMS,
    caption,
    full_caption,
    hard_negatives,
    place_phrases,
    plural,
)
from sd_scratch.scenes.graph import (
    COLOURS,
    INVERSE,
    KINDS,
    PLACES,
    RELATIONS,
    SEEN_PAIRS,
    SHAPES,
    SIZES,
    UNSEEN_PAIRS,
    Scene,
    SceneObject,
    held_out_pair,
    held_out_triple,
    place_of,
    relation_of,
    sample_scene,
)
from sd_scratch.scenes.render import DISTANCES, coverage, render

SYNONYM_OF = {word: name for name, words in SYNONYMS.items() for word in words}


def scenes(count: int, seed: int = 3, kind: str | None = None) -> list[Scene]:
    return [sample_scene(seed, i, kind) for i in range(count)]


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
        depth = len(scene.objects)
        torch.testing.assert_close(alone.masks[0], together.masks[i, :depth], rtol=0, atol=1e-6)


def test_pairs_backgrounds_sizes_and_places_are_drawn_evenly() -> None:
    many = scenes(3000, kind="one")
    items = [scene.objects[0] for scene in many]
    pairs = [(item.colour, item.shape) for item in items]
    assert set(pairs) == set(SEEN_PAIRS)
    assert max(pairs.count(pair) for pair in SEEN_PAIRS) < 2 * len(pairs) / len(SEEN_PAIRS)
    for names, drawn in (
        (COLOURS, [scene.background for scene in many]),
        (SIZES, [item.size for item in items]),
        (PLACES, [item.place for item in items]),
    ):
        for name in names:
            assert drawn.count(name) == pytest.approx(3000 / len(names), rel=0.2), name


def test_kinds_are_as_frequent_as_they_say() -> None:
    kinds = [scene.kind for scene in scenes(3000)]
    for kind, share in KINDS.items():
        assert kinds.count(kind) / 3000 == pytest.approx(share, abs=0.03)


def test_no_two_things_in_a_scene_have_the_same_colour_but_those_that_are_counted() -> None:
    for scene in scenes(600):
        colours = [item.colour for item in scene.objects]
        assert scene.background not in colours
        if scene.kind == "count":
            looks = {(item.shape, item.colour, item.size) for item in scene.objects}
            assert len(looks) == 1 and 2 <= len(colours) <= 4
        else:
            assert len(set(colours)) == len(colours)


def test_objects_do_not_touch() -> None:
    many = [scene for scene in scenes(400) if len(scene.objects) > 1]
    masks = render(many, 96).masks
    wide = torch.nn.functional.max_pool2d(masks, 3, stride=1, padding=1)
    assert wide.sum(dim=1).max() <= 1 + 1e-6


def test_a_relation_holds_in_the_picture() -> None:
    many = scenes(200, kind="two")
    assert {scene.relation for scene in many} == set(RELATIONS)
    masks = render(many, 64).masks
    points = torch.arange(64.0)
    x = (masks.sum(2) * points).sum(2) / masks.sum((2, 3))
    y = (masks.sum(3) * points).sum(2) / masks.sum((2, 3))
    for scene, (xa, xb), (ya, yb) in zip(many, x.tolist(), y.tolist(), strict=True):
        holds = {"left of": xb - xa, "right of": xa - xb, "above": yb - ya, "below": ya - yb}
        assert scene.relation is not None and holds[scene.relation] > 0.1 * 64
        assert relation_of(xa - xb, ya - yb) == scene.relation


def test_what_is_held_out_is_never_drawn_and_can_be_asked_for() -> None:
    many = scenes(4000)
    assert 4 <= len(UNSEEN_PAIRS) <= 8
    for scene in many:
        assert not any(held_out_pair(item.colour, item.shape) for item in scene.objects)
        if scene.relation is not None:
            first, second = (item.shape for item in scene.objects)
            assert not held_out_triple(first, scene.relation, second)
    for i in range(50):
        item = sample_scene(3, i, "one", unseen="pair").objects[0]
        assert held_out_pair(item.colour, item.shape)
        scene = sample_scene(3, i, "two", unseen="triple")
        first, second = (item.shape for item in scene.objects)
        assert scene.relation is not None and held_out_triple(first, scene.relation, second)


def test_a_held_out_relation_is_held_out_from_both_sides() -> None:
    for first in SHAPES:
        for second in SHAPES:
            for relation in RELATIONS:
                other = held_out_triple(second, INVERSE[relation], first)
                assert held_out_triple(first, relation, second) == other


def test_every_two_colours_are_far_apart() -> None:
    palette = torch.tensor(list(COLOURS.values()))
    distances = torch.pdist(palette)
    assert distances.min() > 0.4
    assert palette.min() >= 0 and palette.max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_stay_inside_the_picture_and_keep_their_area_at_any_resolution(shape: str) -> None:
    many = [scene for scene in scenes(300, kind="one") if scene.objects[0].shape == shape]
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
    many = scenes(20, kind="one")
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
    named = full_caption(blue, place=True)
    assert named == "a large red star in the centre on a blue background"
    cross = SceneObject("cross", "orange", "small", 0.2, 0.5, 0.15, 0.0, COLOURS["orange"])
    left = Scene("white", COLOURS["white"], (cross, star), "left of")
    said = "a small orange cross to the left of a large red star on a white background"
    assert full_caption(left) == said
    three = Scene("white", COLOURS["white"], (cross,) * 3)
    assert full_caption(three) == "three small orange crosses on a white background"
    heart = SceneObject("heart", "pink", "small", 0.8, 0.8, 0.15, 0.0, COLOURS["pink"])
    group = Scene("white", COLOURS["white"], (cross, star, heart))
    said = "a small orange cross, a large red star and a small pink heart on a white background"
    assert full_caption(group) == said


def test_captions_tell_the_truth_and_only_what_they_say_they_mention() -> None:
    for i, scene in enumerate(scenes(2000)):
        said = caption(scene, 3, i)
        assert said == caption(scene, 3, i)
        words = {singular(word) for word in words_of(said.text)}
        truth = {
            "shape": ({item.shape for item in scene.objects}, SHAPES),
            "size": ({item.size for item in scene.objects}, SIZES),
        }
        for name, (values, others) in truth.items():
            assert words & set(others) == (values if name in said.mentions else set()), said
        colours = {item.colour for item in scene.objects} if "colour" in said.mentions else set()
        colours |= {scene.background} if "background" in said.mentions else set()
        assert words & set(COLOURS) == colours, said
        numbers = {NUMBERS[len(scene.objects)]} if scene.kind == "count" else set()
        assert words & set(NUMBERS.values()) == numbers, said
        if "relation" in said.mentions:
            assert relation_holds(scene, said.text), said
        if "place" in said.mentions:
            item = scene.objects[0]
            assert any(f" {phrase}" in said.text.lower() for phrase in place_phrases(item.place))


def relation_holds(scene: Scene, text: str) -> bool:
    """Whether the sentence names the two objects in the order in which its relation is true."""
    text = text.lower()
    [(relation, phrase)] = [
        (name, phrase)
        for name, phrases in PHRASES.items()
        for phrase in phrases[:1] + phrases[1:]
        if f" {phrase} " in text and not (phrase == "left of" and "to the left of" in text)
        and not (phrase == "right of" and "to the right of" in text)
    ]  # fmt: skip
    before, after = text.split(f" {phrase} ")
    a, b = scene.objects
    straight = relation == scene.relation
    first, second = (a, b) if straight else (b, a)
    return (straight or relation == INVERSE[str(scene.relation)]) and all(
        conflicts(part, item) == 0 for part, item in ((before, first), (after, second))
    )


def conflicts(text: str, item: SceneObject) -> int:
    """How many of a phrase's words for shape and size are not the object's."""
    words = {singular(word) for word in words_of(text)}
    return len(words & set(SHAPES) - {item.shape}) + len(words & set(SIZES) - {item.size})


def singular(word: str) -> str:
    singulars = {plural(name): name for name in (*SHAPES, *SYNONYM_OF)}
    word = singulars.get(word, word)
    return SYNONYM_OF.get(word, word)


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


def test_hard_negatives_are_false_in_the_one_thing_they_name() -> None:
    seen = set()
    for i, scene in enumerate(scenes(300)):
        true = full_caption(scene)
        for name, text in hard_negatives(scene, np.random.default_rng(i)).items():
            seen.add(name)
            truth = full_caption(scene, place=True) if name == "place" else true
            assert text != truth, name
            false_words, true_words = (
                Counter(word for word in words_of(x) if word not in ("a", "an"))
                for x in (text, truth)
            )
            changed = 0 if name == "binding" else 1
            if name not in ("place", "relation"):
                assert (false_words - true_words).total() == changed, text
    assert seen == {"colour", "shape", "background", "place", "count", "relation", "binding"}


def test_a_scene_as_json_has_places() -> None:
    plain = sample_scene(3, 0).to_json()
    assert plain["objects"][0]["place"] in PLACES
    assert plain["background"] in COLOURS


def test_places() -> None:
    assert place_of(0.1, 0.1) == "top left"
    assert place_of(0.5, 0.5) == "middle centre"
    assert place_of(0.9, 0.61) == "bottom right"


def right(readings: list[oracle.Reading], many: list[Scene]) -> dict[str, float]:
    """The share of scenes in which each thing that is asked for is read."""
    answers: dict[str, list[bool]] = {}
    for reading, scene in zip(readings, many, strict=True):
        for name, value in oracle.agreement(reading, scene).items():
            answers.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in answers.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_reads_true_renderings_without_error(kind: str) -> None:
    many = scenes(80, seed=5, kind=kind)
    figures = right(oracle.read(render(many, 64).images), many)
    assert set(figures.values()) == {1.0}


@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_sees_blur_and_noise_through(kind: str) -> None:
    many = scenes(40, seed=6, kind=kind)
    images = render(many, 64).images
    blurred = torch.nn.functional.avg_pool2d(
        images, 3, stride=1, padding=1, count_include_pad=False
    )
    noise = 0.04 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    figures = right(oracle.read(blurred + noise), many)
    assert min(figures.values()) > 0.9


def test_the_oracles_masks_are_the_rendered_ones() -> None:
    many = scenes(30, seed=7, kind="two")
    images, masks = render(many, 64)
    for scene, reading, mask in zip(many, oracle.read(images), masks, strict=True):
        for item, true in zip(scene.objects, mask, strict=True):
            [read] = [read for read in reading.objects if read.colour == item.colour]
            assert torch.minimum(read.mask, true).sum() / torch.maximum(read.mask, true).sum() > 0.8
            assert read.x == pytest.approx(item.x, abs=0.03)
            assert read.y == pytest.approx(item.y, abs=0.03)


def test_the_oracle_finds_nothing_where_nothing_is() -> None:
    assert oracle.read(torch.full((1, 3, 64, 64), -1.0)) == [oracle.Reading("black", ())]


def test_the_oracle_does_not_call_a_blob_a_shape() -> None:
    """A long bar: no shape, and so no size."""
    image = torch.full((1, 3, 64, 64), -1.0)
    image[:, 0, 20:24, 5:60] = 1.0
    [read] = oracle.read(image)[0].objects
    assert read.colour == "red" and read.shape is None and read.size is None
    assert read.overlap < 0.75


def test_exchanged_colours_are_all_there_but_not_their_own() -> None:
    [scene] = scenes(1, seed=9, kind="two")
    [reading] = oracle.read(render([scene], 64).images)
    a, b = scene.objects
    other = Scene(
        scene.background,
        scene.background_rgb,
        (replace(a, colour=b.colour), replace(b, colour=a.colour)),
        scene.relation,
    )
    answers = oracle.agreement(reading, other)
    assert answers["all there"] and not answers["own colours"] and "relation" not in answers
    assert answers["colours there"]
    recoloured = replace(scene, objects=(replace(a, colour=scene.background), b))
    assert not oracle.agreement(reading, recoloured)["colours there"]
    mirrored = replace(scene, relation=INVERSE[str(scene.relation)])
    assert oracle.agreement(reading, mirrored)["relation"] is False


def test_one_too_many_is_the_wrong_count() -> None:
    [scene] = [scene for scene in scenes(20, kind="count") if len(scene.objects) == 3][:1]
    [reading] = oracle.read(render([scene], 64).images)
    fewer = replace(scene, objects=scene.objects[:2])
    assert oracle.agreement(reading, scene)["count of shapes"]
    assert not oracle.agreement(reading, fewer)["count"]


def test_the_oracle_can_be_wrong() -> None:
    """Swapped pictures must score near chance, or the score says nothing."""
    many = scenes(120, seed=8, kind="one")
    readings = oracle.read(render(many, 64).images)
    figures = right(readings[1:] + readings[:1], many)
    assert figures["shape"] < 0.3 and figures["colour"] < 0.25 and figures["background"] < 0.25
