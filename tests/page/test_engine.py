"""The engine: what a page asks for, what it is answered, and that nothing queues up."""

import io
import json
import random
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sd_scratch
from sd_scratch.page.answers import masks
from sd_scratch.page.edits import STEPS_LIMIT, TEXT_LIMIT
from sd_scratch.page.engine import SESSIONS_LIMIT, Engine
from sd_scratch.page.sources import source_of
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json
from sd_scratch.scenes import oracle
from sd_scratch.tensors import Trace
from sd_scratch.tensors.edits import reweight
from tests.page.pages import RECIPE, Line
from tests.tiny import tiny_model

PACKAGE = Path(sd_scratch.__file__).parent
LONG = {**RECIPE, "steps": STEPS_LIMIT}


@pytest.fixture
def line(engine: Engine) -> Iterator[Line]:
    line = Line(engine)
    yield line
    engine.close(line.session)


def pixels(head: dict, body: bytes) -> np.ndarray:
    return np.frombuffer(body, np.uint8).reshape(head["height"], head["width"], 3)


def test_the_first_answer_says_what_the_model_is(line: Line) -> None:
    head, _ = line.answers[0]
    assert head["say"] == "hello"
    names = {tensor["name"] for tensor in head["tensors"]}
    assert names == {info.name for info in line.engine.model.tensors()}
    assert head["samplers"] and head["defaults"]["steps"]


def test_a_picture_is_that_of_the_command_line(line: Line) -> None:
    head, body = line.ask(do="run", recipe=RECIPE)
    assert head["say"] == "done", head
    (made,) = line.engine.model.run(Recipe("a red circle", seed=7, steps=3, width=32, height=32))
    assert np.array_equal(pixels(head, body), np.asarray(made.to_pil()[0]))
    steps = [h for h, _ in line.answers if h["say"] == "step"]
    assert [h["index"] for h in steps] == [0, 1, 2]
    assert head["recipe"]["guidance"] == line.engine.model.config.guidance


def test_what_the_command_line_warns_of_is_noted(line: Line) -> None:
    head, _ = line.ask(do="run", recipe={**RECIPE, "guidance": 50, "negative_prompt": "(red:1.2"})
    assert head["say"] == "done" and any("guidance 50" in note for note in head["notes"])
    assert line.ask(do="run", recipe=RECIPE)[0]["notes"] == []


def test_edits_do_what_they_do_in_python(line: Line) -> None:
    probs = "unet.*.attn2.probs"
    edit = {"tensors": probs, "edit": "reweight", "words": ["red"], "factors": [0]}
    head, body = line.ask(do="run", recipe=RECIPE, edits=[edit])
    model = line.engine.model
    with model.edit(probs, reweight({"red": 0.0})):
        (made,) = model.run(Recipe("a red circle", seed=7, steps=3, width=32, height=32))
    assert np.array_equal(pixels(head, body), np.asarray(made.to_pil()[0]))
    plain, _ = line.ask(do="run", recipe=RECIPE)
    assert plain["sha256"] != head["sha256"]


@pytest.mark.parametrize(
    "edit",
    [
        {"tensors": "unet.h", "edit": "scale", "factor": 1.5, "steps": [0, 1]},
        {"tensors": "unet.h", "edit": "add", "value": 0.1},
        {"tensors": "unet.h", "edit": "set", "value": 0, "branch": "cond"},
        {"tensors": "unet.*.attn2.z", "edit": "ablate", "heads": [0]},
        {"tensors": "unet.h", "edit": "ablate", "channels": [0, 3], "by": "mean"},
        {"tensors": "unet.*.attn2.probs", "edit": "ablate", "words": ["red"]},
        {
            "tensors": "text.context",
            "edit": "scale_word",
            "word": "red",
            "factor": 2,
            "origin": "empty",
        },
        {"tensors": "text.context", "edit": "swap", "first": "red", "second": ["circle", 1]},
    ],
    ids=lambda edit: f"{edit['edit']}-{edit['tensors']}",
)
def test_every_kind_of_edit_changes_the_picture(line: Line, edit: dict) -> None:
    head, _ = line.ask(do="run", recipe=RECIPE, edits=[edit], previews=False)
    assert head["say"] == "done", head
    plain, _ = line.ask(do="run", recipe=RECIPE, previews=False)
    assert head["sha256"] != plain["sha256"]


def test_every_tensor_can_be_looked_at(line: Line) -> None:
    line.ask(do="run", recipe={**RECIPE, "steps": 1})
    seen = set()
    for tensor in line.answers[0][0]["tensors"]:
        if tensor["name"].startswith("vae.encoder") or tensor["name"] in ENCODED:
            continue  # nothing is encoded in a run
        kind = (tensor["name"][:4], tuple(tensor["axes"]), tensor["hw"] is None)
        if kind in seen:  # one of each kind
            continue
        seen.add(kind)
        head, body = line.ask(do="tensor", name=tensor["name"], step=0, branch="cond")
        if tensor["name"] == "sampler.step_noise":
            assert head["say"] == "error"  # this sampler adds none
            continue
        assert head["say"] == "tensor", (tensor["name"], head)
        assert len(body) == 4 * int(np.prod(head["shape"]))
        assert np.isfinite(head["statistics"]["mean"])


ENCODED = ("vae.moments", "vae.mean", "vae.logvar", "vae.quant_conv")


def test_attention_is_shown_as_words_over_places(line: Line) -> None:
    name = next(i.name for i in line.engine.model.tensors("unet.*.attn2.probs"))
    line.ask(do="run", recipe=RECIPE, watch=[name])
    head, body = line.ask(do="tensor", name=name, step=2, branch="cond")
    assert head["axes"] == ["head", "word", "height", "width"]
    assert head["labels"]["word"][:3] == ["a", "red", "circle"]
    values = np.frombuffer(body, "<f4").reshape(head["shape"])
    assert np.allclose(values.sum(axis=1), 1, atol=1e-5)
    model = line.engine.model
    with model.record(name, branch="cond") as trace:
        list(model.run(Recipe("a red circle", seed=7, steps=3, width=32, height=32)))
    red = trace[f"{name}@2:cond"].tensor[0][..., 2]
    assert np.array_equal(values[:, 1].reshape(red.shape), red.numpy())


def test_a_place_between_prompts(line: Line) -> None:
    prompts = ["a red circle", "a blue circle", "a blue star"]
    plane, _ = line.ask(do="plane", prompts=prompts)
    assert plane["say"] == "plane" and len(plane["places"]) == 3
    corner = {"prompts": prompts, "at": plane["places"][0]}
    at_corner, _ = line.ask(do="run", recipe=RECIPE, place=corner)
    plain, _ = line.ask(do="run", recipe=RECIPE)
    assert at_corner["sha256"] == plain["sha256"]
    middle = {"prompts": prompts, "at": [0, 0]}
    between, _ = line.ask(do="run", recipe=RECIPE, place=middle)
    assert between["sha256"] != plain["sha256"]
    two = {"prompts": prompts[:2], "at": [0.0]}
    assert line.ask(do="run", recipe=RECIPE, place=two)[0]["say"] == "done"


def test_a_saved_picture_holds_its_recipe_and_its_edits(line: Line) -> None:
    assert "make one first" in line.ask(do="save")[0]["text"]
    edit = {"tensors": "unet.h", "edit": "scale", "factor": 1.5}
    head, body = line.ask(do="run", recipe=RECIPE, edits=[edit])
    _, png = line.ask(do="save")
    picture = Image.open(io.BytesIO(png))
    assert np.array_equal(np.asarray(picture), pixels(head, body))
    assert recipe_from_json(picture.text["sd_scratch"], "png").seed == 7
    assert '"factor": 1.5' in picture.text["sd_scratch page"]


def test_the_tensors_that_were_looked_at_can_be_saved(line: Line, tmp_path: Path) -> None:
    line.ask(do="run", recipe=RECIPE)
    assert "open a box" in line.ask(do="save", what="tensors")[0]["text"]
    head, body = line.ask(do="tensor", name="unet.h", step=1, branch="cond")
    place, written = head["source"]
    file, number = place.split(":")
    assert written in (PACKAGE / file).read_text().splitlines()[int(number) - 1]
    assert 'tap("h"' in written
    saved, data = line.ask(do="save", what="tensors")
    assert saved["name"] == "7-tensors.zip"
    zipfile.ZipFile(io.BytesIO(data)).extractall(tmp_path)
    recorded = Trace.load(tmp_path / "unet.h")["unet.h@1:cond"].tensor[0]
    assert np.array_equal(np.frombuffer(body, "<f4").reshape(head["shape"]), recorded.numpy())


def test_every_tensor_has_its_line_of_source(line: Line) -> None:
    infos = line.engine.model.tensors()
    without = [info.name for info in infos if source_of(line.engine.model, info) is None]
    assert without == ["text.context"]  # which stands where all networks are called


def test_the_oracle_has_masks_for_every_feature_map() -> None:
    picture = torch.full((1, 3, 64, 64), 1.0)
    picture[:, 1:, :32, :32] = -1.0  # red, above on the left
    (seen,) = oracle.read(picture)
    ((name, percent),) = masks(seen, (4, 4))
    assert "red" in name
    assert np.array_equal(np.array(percent).reshape(4, 4)[:2, :2], np.full((2, 2), 100))
    assert sum(percent) == 400
    assert masks(seen, None) == [] == masks(None, (4, 4))


def test_a_newer_wish_ends_an_older_one_within_a_step(line: Line) -> None:
    long = line.send(do="run", recipe=LONG)
    line.wait(long, "running")
    newer = line.send(do="run", recipe=RECIPE)
    assert line.wait(newer, "done", "error")[0]["say"] == "done"
    assert line.wait(long, "stopped", "done")[0]["say"] == "stopped"


def test_cancel_ends_a_run_and_the_page_goes_on(line: Line) -> None:
    long = line.send(do="run", recipe=LONG)
    line.wait(long, "running")
    line.ask(do="cancel")
    assert line.wait(long, "stopped", "done")[0]["say"] == "stopped"
    assert line.ask(do="run", recipe=RECIPE)[0]["say"] == "done"


def test_two_pages_take_turns(engine: Engine, line: Line) -> None:
    other = Line(engine)
    long = other.send(do="run", recipe={**RECIPE, "steps": 30})
    other.wait(long, "running")
    mine = line.send(do="run", recipe=RECIPE)
    line.wait(mine, "waiting")
    assert other.wait(long, "done", "stopped")[0]["say"] == "done"  # nobody else's wish ends it
    assert line.wait(mine, "done")[0]["say"] == "done"
    engine.close(other.session)


def test_there_is_an_end_to_open_pages() -> None:
    engine = Engine(tiny_model())
    lines = [Line(engine) for _ in range(SESSIONS_LIMIT)]
    with pytest.raises(Exception, match="close one"):
        Line(engine)
    engine.close(lines[0].session)
    engine.close(Line(engine).session)
    engine.stop()


def test_a_joystick_leaves_nothing_behind_but_the_last_picture(line: Line) -> None:
    """Fifty places a second, for two seconds: a picture now and then, no queue, the last one at the end."""
    prompts = ["a red circle", "a blue circle", "a blue star"]
    before = torch.get_num_threads()
    numbers = []
    for i in range(100):
        place = {"prompts": prompts, "at": [np.cos(i / 9), np.sin(i / 9)]}
        recipe = {**RECIPE, "steps": 2}
        numbers.append(line.send(do="run", recipe=recipe, place=place, live=True, previews=False))
        assert len(line.session.waiting) <= 1
        time.sleep(0.02)
    last = line.wait(numbers[-1], "done")
    says = {n: line.wait(n, "done", "skipped")[0]["say"] for n in numbers}
    assert list(says.values()).count("done") > 2
    head, body = line.ask(do="run", recipe={**RECIPE, "steps": 2}, place=place)
    assert body == last[1]
    assert torch.get_num_threads() == before


SENTENCES = [
    ({"do": "fly"}, "do"),
    ({"do": "run"}, "recipe"),
    ({"do": "run", "recipe": {"prompt": 3}}, "prompt"),
    ({"do": "run", "recipe": {**RECIPE, "model": "/etc/passwd"}}, "no 'model'"),
    ({"do": "run", "recipe": {**RECIPE, "init_image": "http://a"}}, "init_image"),
    ({"do": "run", "recipe": {**RECIPE, "steps": STEPS_LIMIT + 1}}, "goes up to"),
    ({"do": "run", "recipe": {**RECIPE, "steps": 0}}, "steps"),
    ({"do": "run", "recipe": {**RECIPE, "width": 4096}}, "goes up to"),
    ({"do": "run", "recipe": {**RECIPE, "width": 33}}, "multiple"),
    ({"do": "run", "recipe": {**RECIPE, "guidance": 1e8}}, "goes up to"),
    ({"do": "run", "recipe": {**RECIPE, "sampler": "magic"}}, "magic"),
    ({"do": "run", "recipe": {**RECIPE, "schedule": "magic"}}, "schedule"),
    ({"do": "run", "recipe": {**RECIPE, "sampler_options": {"eta": []}}}, "sampler_options"),
    ({"do": "run", "recipe": {**RECIPE, "prompt": "word " * 10_000}}, "shorten"),
    ({"do": "run", "recipe": {**RECIPE, "prompt": "x" * (TEXT_LIMIT + 1)}}, "shorten"),
    ({"do": "run", "recipe": RECIPE, "edits": {}}, "edits"),
    ({"do": "run", "recipe": RECIPE, "edits": [{}] * 40}, "edits"),
    ({"do": "run", "recipe": RECIPE, "edits": [{"edit": "patch"}]}, "edit"),
    ({"do": "run", "recipe": RECIPE, "edits": [{"edit": "scale", "factor": 1}]}, "tensors"),
    ({"do": "run", "recipe": RECIPE, "edits": [{"edit": "scale", "tensors": "unet.h"}]}, "factor"),
    ({"do": "run", "recipe": RECIPE, "edits": [{"edit": "scale", "tensors": "nix", "factor": 1}]}, "nix"),
    ({"do": "run", "recipe": RECIPE, "edits": [{"edit": "scale", "tensors": "sampler.t", "factor": 1}]}, "seen"),
    (
        {"do": "run", "recipe": RECIPE, "edits": [{"edit": "ablate", "tensors": "unet.h", "heads": [0]}]},
        "head",
    ),
    (
        {"do": "run", "recipe": RECIPE, "edits": [{"edit": "scale_word", "tensors": "text.context", "word": "dog", "factor": 1}]},
        "no word 'dog'",
    ),
    ({"do": "run", "recipe": RECIPE, "place": {"prompts": ["a"], "at": [0]}}, "two prompts"),
    ({"do": "run", "recipe": RECIPE, "place": {"prompts": ["a", "a"], "at": [0]}}, "equal"),
    ({"do": "run", "recipe": RECIPE, "place": {"prompts": ["a", "b"], "at": [0, 1]}}, "at"),
    ({"do": "run", "recipe": RECIPE, "place": {"prompts": ["a", "b"], "at": [1e300]}}, "at"),
    ({"do": "run", "recipe": RECIPE, "shell": "rm"}, "no 'shell'"),
    ({"do": "tensor", "name": "../../etc/passwd", "step": 0}, "name"),
    ({"do": "tensor", "name": "unet.h", "step": -1}, "step"),
    ({"do": "plane", "prompts": "a"}, "prompts"),
    ({"do": "words", "prompt": None}, "prompt"),
    ({"do": "save", "what": "/etc/passwd"}, "what"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "part"), SENTENCES, ids=lambda x: str(x)[:60])
def test_a_bad_wish_is_answered_with_a_sentence(line: Line, message: dict, part: str) -> None:
    head, _ = line.ask(**message)
    assert head["say"] == "error" and part in head["text"], head
    assert "\n" not in head["text"]


def test_an_edit_that_breaks_the_run_breaks_nothing_else(line: Line) -> None:
    edit = {"tensors": "unet.h", "edit": "scale", "factor": 1e6}
    everywhere = {"tensors": "unet.*.resid1", "edit": "scale", "factor": 1e6}
    head, _ = line.ask(do="run", recipe=RECIPE, edits=[edit, everywhere])
    assert head["say"] in ("error", "done")
    assert line.ask(do="run", recipe=RECIPE)[0]["say"] == "done"


def test_garbage_is_answered_and_changes_nothing(engine: Engine, line: Line) -> None:
    """A thousand messages of random text, and of messages with a piece of another kind in them."""
    rng = random.Random(0)
    pieces = [
        None,
        True,
        -1,
        1e999,
        "",
        "x" * 500,
        [],
        {},
        [[[]]],
        {"a": {"b": []}},
        "\ud800",
        "\0",
    ]
    keys = ["do", "id", "recipe", "edits", "place", "name", "step", "branch", "prompts", "watch"]
    kinds = ["run", "tensor", "words", "plane", "cancel", "save", "nix"]
    for i in range(1000):
        if i % 2:
            message = {"do": rng.choice(kinds), "id": i}
            for _ in range(rng.randrange(5)):
                message[rng.choice(keys)] = rng.choice(pieces)
            text = json.dumps(message)
        else:
            text = "".join(chr(rng.randrange(1, 0x2FF)) for _ in range(rng.randrange(200)))
        engine.receive(line.session, text)
    for text in (
        "",
        "{",
        "[" * 50_000,
        '{"a":1,"a":2}',
        "null",
        '{"id":NaN}',
        "x" * 100_000,
        '"\ud800"',
    ):
        engine.receive(line.session, text)
    assert line.ask(do="run", recipe=RECIPE)[0]["say"] == "done"
    assert len(line.session.waiting) <= 4
    assert all("\n" not in h["text"] for h, _ in line.answers if h["say"] == "error")
