"""A run that begins with a picture, and one that paints under a mask: as `generate` makes them."""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sd_scratch.config import TINY
from sd_scratch.page.engine import Engine
from sd_scratch.page.messages import PICTURE_LIMIT, frame
from sd_scratch.pipeline.mask_use import MaskUse
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json
from tests.page.pages import RECIPE, Line
from tests.tiny import tiny_model

SIDE = RECIPE["width"]


@pytest.fixture
def line(engine: Engine) -> Iterator[Line]:
    line = Line(engine)
    yield line
    engine.close(line.session)


def png(picture: Image.Image) -> bytes:
    held = io.BytesIO()
    picture.save(held, "PNG")
    return held.getvalue()


def painted(width: int = SIDE, height: int = SIDE) -> Image.Image:
    """A picture of no symmetry."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([7 * x % 256, 5 * y % 256, (x * y) % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def half() -> Image.Image:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, : SIDE // 2] = 255
    return Image.fromarray(mask)


def sent(line: Line, data: bytes, use: str = "picture", name: str = "own.png") -> dict[str, Any]:
    line.number += 1
    head = {"do": "picture", "id": line.number, "use": use, "name": name}
    line.engine.receive(line.session, frame(head, data))
    return dict(line.wait(line.number, "picture", "error")[0])


def pixels(head: Any, body: bytes) -> np.ndarray:
    return np.frombuffer(body, np.uint8).reshape(head["height"], head["width"], 3)


def test_a_picture_to_begin_with(line: Line) -> None:
    file = png(painted())
    answer = sent(line, file)
    digest = hashlib.sha256(file).hexdigest()[:10]
    assert (answer["hash"], answer["width"], answer["height"]) == (digest, SIDE, SIDE)
    begins = {"init_image": "own.png", "init_image_hash": digest, "strength": 0.5}
    head, body = line.ask(do="run", recipe={**RECIPE, "steps": 4, **begins})
    assert head["say"] == "done", head
    recipe = Recipe("a red circle", seed=7, steps=4, width=SIDE, height=SIDE, strength=0.5)
    (made,) = line.engine.model.run(recipe, init_image=painted())
    assert np.array_equal(pixels(head, body), np.asarray(made.to_pil()[0]))
    with line.engine.model.record("unet.h", branch="cond") as trace:
        list(line.engine.model.run(recipe, init_image=painted()))
    assert len(head["moments"]) == 2 and head["calls"] == len(trace.values)
    assert [h["of"] for h, _ in line.answers if h["say"] == "step"] == [2, 2]
    _, saved = line.ask(do="save")
    stored = recipe_from_json(Image.open(io.BytesIO(saved)).text["sd_scratch"], "png")
    assert (stored.init_image, stored.init_image_hash, stored.strength) == ("own.png", digest, 0.5)
    for name in ("unet.h", "vae.mean"):  # a run that begins with a picture has made this one too
        seen, _ = line.ask(do="tensor", name=name, step=1, branch="cond")
        assert seen["say"] == "tensor", seen


def test_a_picture_of_another_size_is_resized_as_generate_does(line: Line) -> None:
    digest = sent(line, png(painted(50, 90)))["hash"]
    begins = {"init_image": "own.png", "init_image_hash": digest, "strength": 1.0}
    head, body = line.ask(do="run", recipe={**RECIPE, **begins})
    recipe = Recipe("a red circle", seed=7, steps=3, width=SIDE, height=SIDE, strength=1.0)
    (made,) = line.engine.model.run(recipe, init_image=painted(50, 90))
    assert np.array_equal(pixels(head, body), np.asarray(made.to_pil()[0]))


def test_only_what_is_white_in_the_mask_is_painted(line: Line) -> None:
    picture = sent(line, png(painted()))["hash"]
    mask = sent(line, png(half()), "mask", "mask.png")["hash"]
    use = MaskUse("mask.png", mask, feather=0)
    begins = {"init_image": "own.png", "init_image_hash": picture, "strength": 1.0}
    wish = {**RECIPE, **begins, "mask": use}
    head, body = line.ask(do="run", recipe=wish)
    assert head["say"] == "done", head
    made, was = pixels(head, body), np.asarray(painted())
    assert np.array_equal(made[:, SIDE // 2 :], was[:, SIDE // 2 :])
    assert not np.array_equal(made[:, : SIDE // 2], was[:, : SIDE // 2])
    recipe = Recipe(
        "a red circle", seed=7, steps=3, width=SIDE, height=SIDE, strength=1.0, mask=use
    )
    (own,) = line.engine.model.run(recipe, init_image=painted(), mask=half())
    assert np.array_equal(made, np.asarray(own.to_pil()[0]))
    place = {"prompts": ["a red circle", "a blue star"], "at": [0.0]}  # the rest goes with it
    moved, _ = line.ask(do="run", recipe=wish, place=place)
    assert moved["say"] == "done" and moved["sha256"] != head["sha256"]


NO_PICTURES = [
    (b"", "not a PNG"),
    (b"\x80\x04gASV", "not a PNG"),
    (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "own.png"),
    (png(painted())[:200], "own.png"),
    (png(Image.new("L", (5000, 5))), "4096"),
    (b"GIF89a" + b"\0" * 60, "not a PNG"),
    (b"x" * (PICTURE_LIMIT + 1), "MB"),
]


@pytest.mark.parametrize(("data", "part"), NO_PICTURES, ids=[p for _, p in NO_PICTURES])
def test_what_is_no_picture_is_said_and_changes_nothing(line: Line, data: bytes, part: str) -> None:
    digest = sent(line, png(painted()))["hash"]
    answer = sent(line, data)
    assert answer["say"] == "error" and part in answer["text"] and "\n" not in answer["text"]
    begins = {"init_image": "own.png", "init_image_hash": digest, "strength": 0.5}
    assert line.ask(do="run", recipe={**RECIPE, **begins})[0]["say"] == "done"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0\0",
        b"\xff\xff\xff\xff{}",
        b"\x02\0\0\0\xff\xff",
        frame({"do": "run", "id": 1}, b""),
        frame({"do": "picture", "id": 1, "use": "shell", "name": "a"}, b""),
        frame({"do": "picture", "id": 1, "use": "mask", "name": "../../etc/passwd"}, b""),
        frame({"do": "picture", "id": 1, "use": "mask", "name": ""}, b""),
        frame({"do": "picture", "id": 1, "use": "mask", "name": "a", "path": "/etc"}, b""),
        frame({"do": "picture", "id": -1, "use": "mask", "name": "a"}, b""),
    ],
    ids=lambda message: str(message)[:50],
)
def test_a_bad_binary_message_is_answered_with_a_sentence(line: Line, message: bytes) -> None:
    before = len(line.answers)
    line.engine.receive(line.session, message)
    (head, _) = line.answers[before]
    assert head["say"] == "error" and "\n" not in head["text"]


def test_a_recipe_of_a_picture_that_is_not_there_says_so(line: Line) -> None:
    link = {"init_image": "cat.png", "init_image_hash": "0123456789", "strength": 0.5}
    head, _ = line.ask(do="run", recipe={**RECIPE, **link})
    assert head["say"] == "error" and "cat.png" in head["text"] and "choose" in head["text"]
    digest = sent(line, png(painted()))["hash"]
    here = {"init_image": "own.png", "init_image_hash": digest}
    mask = MaskUse("mask.png", "0123456789")
    head, _ = line.ask(do="run", recipe={**RECIPE, **here, "mask": mask})
    assert "mask.png" in head["text"]
    other = Line(line.engine)  # another page's picture is nobody else's
    head, _ = other.ask(do="run", recipe={**RECIPE, **here})
    assert head["say"] == "error" and "own.png" in head["text"]
    line.engine.close(other.session)


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"strength": 0.5}, "strength"),
        ({"init_image": "a.png"}, "init_image"),
        ({"init_image_hash": "0123456789"}, "init_image"),
        ({"init_image": "/etc/passwd", "init_image_hash": "0"}, "init_image"),
        ({"init_image": "a", "init_image_hash": "0", "strength": 0}, "strength"),
        ({"init_image": "a", "init_image_hash": "0", "strength": 2}, "strength"),
        ({"init_image": "a", "init_image_hash": "0", "mask": "all"}, "mask"),
        (
            {
                "init_image": "a",
                "init_image_hash": "0",
                "mask": MaskUse("m", "0", extend=(8, 0, 0, 0)),
            },
            "margins",
        ),
        ({"init_image": "a", "init_image_hash": "0", "mask": MaskUse(alpha=True)}, "mask"),
    ],
    ids=lambda x: str(x)[:60],
)
def test_bad_words_about_a_picture(line: Line, values: dict[str, Any], part: str) -> None:
    head, _ = line.ask(do="run", recipe={**RECIPE, **values})
    assert head["say"] == "error" and part in head["text"], head


def test_a_mask_of_nothing_is_said(line: Line) -> None:
    answer = sent(line, png(Image.new("L", (SIDE, SIDE))), "mask", "mask.png")
    assert answer["say"] == "error" and "no white" in answer["text"]


def test_brackets_are_weights_as_for_generate(line: Line) -> None:
    head, body = line.ask(do="run", recipe={**RECIPE, "prompt": "a (red:1.4) circle"})
    recipe = Recipe("a (red:1.4) circle", seed=7, steps=3, width=SIDE, height=SIDE)
    (made,) = line.engine.model.run(recipe)
    assert np.array_equal(pixels(head, body), np.asarray(made.to_pil()[0]))
    assert json.loads(json.dumps(head["recipe"]))["syntax"] == "a1111"


@pytest.mark.parametrize(("channels", "needs"), [(9, "inpainting"), (8, "InstructPix2Pix")])
def test_a_model_that_wants_a_picture_says_so_and_gets_it(channels: int, needs: str) -> None:
    config = replace(TINY, unet=replace(TINY.unet, in_channels=channels))
    engine = Engine(tiny_model(config))
    line = Line(engine)
    assert needs in line.answers[0][0]["needs"]
    head, _ = line.ask(do="run", recipe=RECIPE)
    assert head["say"] == "error" and needs in head["text"]
    begins = {"init_image": "own.png", "init_image_hash": sent(line, png(painted()))["hash"]}
    if channels == 9:
        begins["mask"] = MaskUse("mask.png", sent(line, png(half()), "mask", "mask.png")["hash"])
    head, body = line.ask(do="run", recipe={**RECIPE, **begins})
    assert head["say"] == "done", head
    recipe = Recipe("a red circle", seed=7, steps=3, width=SIDE, height=SIDE)
    mask = half() if channels == 9 else None
    (made,) = engine.model.run(recipe, init_image=painted(), mask=mask)
    assert np.array_equal(pixels(head, body), np.asarray(made.to_pil()[0]))
    branch = "pictured" if channels == 8 else "uncond"
    seen, _ = line.ask(do="tensor", name="unet.h", step=1, branch=branch)
    assert seen["branch"] == branch and len(seen["branches"]) == (3 if channels == 8 else 2)
    engine.stop()
