"""What an experiment found, as files; and what a run that stopped had found so far."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sd_scratch.errors import UsageError
from sd_scratch.mapping import Rendering, Report, State, perturbation_report
from sd_scratch.mapping.gradient import exact_derivatives
from sd_scratch.mapping.report import Table, numbered
from tests.tiny import tiny_model

SETTINGS = {"sampler": "ddim", "steps": 2, "guidance": 3.0}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_a_table_is_a_file_that_a_spreadsheet_takes_for_no_formula():
    table = Table(("a", "b"), [("=1+1", None), (True, 0.123456789), ("", -3)])
    assert table.to_csv().decode().splitlines() == ["a,b", " =1+1,", "1,0.123457", ",-3"]


def test_keys_are_numbered_and_fit_in_a_file_name():
    assert numbered(["red", "red:2", "a"]) == ["1-red", "2-red", "3-a"]


def test_a_report_is_written_whole(tmp_path):
    figure = Image.fromarray(np.full((4, 5, 3), 7, dtype=np.uint8))
    report = Report(
        {"one": figure},
        films={"two": b"GIF"},
        tables={"three": Table(("x",), [(1,)])},
        tensors={"four": {"t": torch.arange(6).view(2, 3).T}},
    )
    names = [path.name for path in report.save(tmp_path / "new")]
    assert names == ["one.png", "two.gif", "three.csv", "four.safetensors"]
    found = load_file(tmp_path / "new" / "four.safetensors")["t"]
    assert torch.equal(found, torch.arange(6).view(2, 3).T)
    assert np.asarray(Image.open(tmp_path / "new" / "one.png")).max() == 7


def test_python_has_what_the_command_writes(model):
    prompt = model.prompt("a red ring and a red star")
    rendering = Rendering(model, model.noise(1, 32, 24), SETTINGS)
    report = perturbation_report(rendering, prompt, [prompt.word("red", 2)])
    assert report.facts == {"words": ["red:2"], "lambda": 0.15, "origin": "zero"}
    assert list(report.tensors["maps"]) == ["1-red"]
    assert {"perturb", "strongest", "together", "printed"} == set(report.figures)


def test_a_rendering_with_a_state_makes_nothing_twice(model, tmp_path):
    made = []
    state = State(tmp_path, {"model": "tiny"})
    rendering = Rendering(model, model.noise(1, 16, 16), SETTINGS, 2, made.append, state)
    prompts = [model.prompt(text) for text in ("a", "b", "c")]
    first, seconds = rendering.timed(prompts)
    count = len(made)
    assert count == 4 and len(state.names()) == 2 and seconds > 0
    again, same = rendering.timed(prompts)
    assert torch.equal(first, again) and same == seconds and len(made) == count
    rendering.colours(prompts, seeds=[1, 2, 3])
    rendering.with_settings(guidance=2.0).colours(prompts)
    rendering.with_settings(negative=prompts[0]).colours(prompts)
    assert len(made) == 4 * count
    assert torch.equal(rendering.afresh().colours(prompts), first) and len(made) == 5 * count


def test_derivatives_are_kept_apart_from_pictures_and_from_each_other(model, tmp_path):
    made = []
    prompt = model.prompt("a red star")
    state = State(tmp_path, {})
    rendering = Rendering(model, model.noise(1, 16, 16), SETTINGS, 1, made.append, state)
    red, star = (
        exact_derivatives(rendering, [prompt], [prompt.word(word)])[1] for word in ("red", "star")
    )
    count = len(made)
    again = exact_derivatives(rendering, [prompt], [prompt.word("red")])[1]
    assert len(made) == count and torch.equal(again, red) and not torch.equal(red, star)


def test_other_settings_are_refused(tmp_path):
    State(tmp_path, {"steps": 2}).write("a", {"x": torch.ones(1)})
    other = State(tmp_path, {"steps": 3})
    for use in (other.check, lambda: other.read("a")):
        with pytest.raises(UsageError, match="made with other settings"):
            use()
    State(tmp_path, {"steps": 2}).clear()
    assert other.names() == [] and other.read("a") is None
