"""What a sentence of `scenes` asks for, and whether it is in the picture."""

from sd_scratch.page.asked import asked
from sd_scratch.page.engine import Engine
from sd_scratch.scenes import oracle
from sd_scratch.scenes.evaluate import make_checks
from sd_scratch.scenes.render import render
from tests.page.pages import RECIPE, Line


def test_true_pictures_have_all_that_their_sentences_ask_for() -> None:
    checks = make_checks(60)
    readings = oracle.read(render([check.scene for check in checks], 64).images)
    told = [asked(c.prompt, seen) for c, seen in zip(checks, readings, strict=True)]
    assert all(right for rows in told for _, right in rows)
    assert all(len(rows) >= 3 for rows in told)  # an object, nothing else, the background


def test_another_picture_has_not() -> None:
    checks = make_checks(60)
    (star, *_) = [c for c in checks if c.part == "two objects"]
    (seen,) = oracle.read(render([star.scene], 64).images)
    first, second = star.scene.objects
    sentence = f"a {second.colour} {second.shape} and a {first.colour} {first.shape}"
    assert all(right for _, right in asked(sentence, seen))
    two = asked(f"two {first.colour} {first.shape}s on a {star.scene.background} background", seen)
    assert [right for _, right in two] == [False, True, True]
    assert ("nothing else", False) in asked(f"a {first.colour} {first.shape}", seen)
    other = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    relation = other[str(star.scene.relation)]
    turned = f"a {first.colour} {first.shape} {relation} a {second.colour} {second.shape}"
    assert asked(turned, seen)[2] == (f"{first.shape} {relation} {second.shape}", False)
    assert asked("a tiny violet box", seen)[0][1] is False  # in other words of theirs
    assert asked("", seen) == asked("a photograph of a cat", seen) == []


def test_a_model_of_other_pictures_is_not_scored(engine: Engine) -> None:
    line = Line(engine)
    assert "make one first" in line.ask(do="score")[0]["text"]
    assert line.ask(do="run", recipe=RECIPE)[0]["asked"] == []
    assert "counted" in line.ask(do="score", count=2)[0]["text"]
    assert "count" in line.ask(do="score", count=900)[0]["text"]
    engine.close(line.session)
