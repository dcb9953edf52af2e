import pytest
import torch

from sd_scratch.errors import ScratchError, UsageError
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_a_prompt_carries_its_text_tokens_and_vectors(model):
    prompt = model.prompt("a red cat")
    assert prompt.text == "a red cat"
    assert [word.text for word in prompt.words] == ["a", "red", "cat"]
    assert prompt.context.shape == (1, 77, 32)
    assert torch.equal(prompt.empty, model.prompt("").context)


def test_words_are_found_by_their_text_and_number(model):
    prompt = model.prompt("a cat, a CAT on a catamaran")
    assert prompt.word("cat", 1).start == 2
    assert prompt.word("Cat", 2).start == 9
    assert prompt.word("catamaran").start == 18
    assert prompt.word("on").positions == (6,)


@pytest.mark.parametrize(
    ("word", "nth", "message"),
    [
        ("dog", None, "no word 'dog' in the prompt .* its words are: a, cat, and"),
        ("cat", None, "stands 2 times"),
        ("cat", 3, "there is no number 3"),
        ("cat", 0, "there is no number 0"),
    ],
)
def test_a_word_that_cannot_be_told(model, word, nth, message):
    with pytest.raises(ScratchError, match=message) as error:
        model.prompt("a cat and a cat").word(word, nth)
    assert isinstance(error.value, UsageError)


def test_a_word_beyond_the_last_token_is_said_to_be_cut(model):
    prompt = model.prompt("very " * 80 + "late")
    with pytest.raises(ScratchError, match="beyond the last token"):
        prompt.word("late")


def test_scaling_a_word_changes_its_vectors_alone(model):
    prompt = model.prompt("a red cat")
    scaled = prompt.scale("red", 1.15)
    position = prompt.word("red").positions[0]
    assert torch.allclose(scaled.context[:, position], prompt.context[:, position] * 1.15)
    scaled.context[:, position] = prompt.context[:, position]
    assert torch.equal(scaled.context, prompt.context)


def test_scaling_from_the_empty_prompt(model):
    prompt = model.prompt("a red cat")
    position = prompt.word("cat").positions[0]
    gone = prompt.scale("cat", 0.0, origin="empty")
    assert torch.allclose(gone.context[:, position], prompt.empty[:, position])
    same = prompt.scale("cat", 1.0, origin="empty")
    assert torch.allclose(same.context, prompt.context, atol=1e-6)
    with pytest.raises(ScratchError, match="unknown origin"):
        prompt.scale("cat", 2.0, origin="nowhere")


def test_lerp_and_replacement(model):
    cat, dog = model.prompt("a cat"), model.prompt("a dog")
    assert torch.equal(cat.lerp(dog, 0.0).context, cat.context)
    assert torch.allclose(cat.lerp(dog, 1.0).context, dog.context)
    with pytest.raises(ScratchError, match="do not fit"):
        cat.with_context(torch.zeros(1, 3, 32))


def test_clip_skip(model):
    assert not torch.allclose(
        model.prompt("a cat", clip_skip=2).context, model.prompt("a cat").context
    )
    for wrong in (0, 4):
        with pytest.raises(ScratchError, match=r"not in 1\.\.3"):
            model.prompt("a cat", clip_skip=wrong)
