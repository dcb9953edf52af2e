"""What a run takes that was not said."""

from dataclasses import replace

import pytest

from sd_scratch.config import TINY
from sd_scratch.errors import UsageError
from sd_scratch.pipeline.complete import advise, check_recipe, complete
from sd_scratch.pipeline.recipe import Recipe
from tests.tiny import tiny_model

FEW = replace(TINY, sampler="ddim", steps=8)


def test_few_steps_are_for_the_models_own_sampler_alone() -> None:
    assert complete(Recipe("a cat"), FEW).steps == 8
    assert complete(Recipe("a cat", sampler="pndm"), FEW).steps == 25
    assert complete(Recipe("a cat", sampler="pndm", steps=8), FEW).steps == 8
    assert complete(Recipe("a cat", fast="best"), FEW).steps == 25
    assert complete(Recipe("a cat", sampler="lms"), replace(FEW, steps=50)).steps == 50


def test_the_loop_takes_as_many() -> None:
    model = tiny_model()
    model.config = replace(model.config, sampler="ddim", steps=3)
    assert len(list(model.steps("a cat", model.noise(0)))) == 3
    assert len(list(model.steps("a cat", model.noise(0), sampler="euler"))) == 25


def test_much_guidance_in_few_steps_is_warned_of(caplog) -> None:
    for guidance, steps, said in ((16.0, 8, True), (16.0, 15, False), (14.0, 8, False)):
        caplog.clear()
        advise(complete(Recipe("a cat", guidance=guidance, steps=steps), FEW), FEW)
        assert ("15 or more" in caplog.text) is said


def test_what_is_wrong_in_a_negative_prompt_is_said_of_it(caplog) -> None:
    """A1111 knows no AND there: it is a word, and CLIP's tokens have no capitals."""
    read = check_recipe(Recipe("a", "fog AND rain, AND (mist AND:1.2)"))
    assert read.negative_prompt == "fog and rain, and (mist and:1.2)"
    assert caplog.messages == ["negative prompt: AND is the word 'and' in it, as in A1111"]
    assert check_recipe(Recipe("a", "AND", syntax="plain")).negative_prompt == "AND"
    with pytest.raises(UsageError, match="^AND at character 3 of the prompt"):
        check_recipe(Recipe("a AND b"))
    with pytest.raises(UsageError, match="^negative prompt: the weight 99999"):
        check_recipe(Recipe("a", "(b:99999)"))
